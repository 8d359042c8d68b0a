"""Guidance: denoisers that wrap denoisers, and so steer every sampler of `diffusion`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from course_utils import scores
from course_utils.diffusion import Denoiser, at
from course_utils.messages import tr

PictureLoss = Callable[[Tensor], Tensor]  # x0_hat (B, C, H, W) -> (B,): how far each is from what is wanted
Schedule = Callable[[Tensor], Tensor]  # alpha_bar at t, (B, 1, 1, 1) -> a factor of the same shape

FAINTEST = 0.01  # alpha_bar below which guidance grows no further: see `by_loss`


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): away from what would be drawn without condition.

    x0_hat = unconditional + scale (conditional - unconditional). Scale 1 is the conditional model alone, 0
    the unconditional one; the paper's w is scale - 1. At a given xt, x0_hat, eps and v are affine functions
    of each other, so it makes no difference which of them is drawn out. The result is not cut to [-1, 1].
    """

    def denoise(xt, t):
        plain = unconditional(xt, t)
        return plain + scale * (conditional(xt, t) - plain)

    return denoise


def by_loss(
    denoise: Denoiser,
    loss: PictureLoss,
    alpha_bar: Tensor,
    scale: float,
    *,
    through_model: bool = False,
    schedule: Schedule = torch.ones_like,
    clip: bool = True,
) -> Denoiser:
    """Guidance by the gradient of any loss (Dhariwal & Nichol 2021, algorithm 2, log p(y|xt) = -scale loss).

    The score of xt moves by -scale g, g the gradient of loss(x0_hat) with respect to xt; in terms of x0_hat
    (Tweedie's formula) that is x0_hat - scale (1 - alpha_bar) / sqrt(alpha_bar) g. Samples then come from
    about q(x0) exp(-scale loss(x0)): scale has the unit of 1 / loss, and 0 is off.

    through_model: g runs back through the network; `denoise` must let gradients pass (`diffusion.denoiser`
    with gradients=True). Otherwise it stops at x0_hat, of which sqrt(alpha_bar) xt is taken to be the part
    that depends on xt, as if pixels were independent normal noise; cheaper, and blind to what goes together.
    schedule: how scale changes on the way, as a factor. clip: the result is cut to [-1, 1], as pictures are;
    latents are not.

    alpha_bar below 0.01 counts as 0.01 in the root: where hardly any signal is left, the ideal denoiser's
    gradient vanishes like sqrt(alpha_bar), but that of a trained network does not.
    """

    def guided(xt, t):
        a = at(alpha_bar, t, xt)  # (B, 1, 1, 1)
        strength = scale * schedule(a) * (1 - a)
        with torch.enable_grad():
            xt = xt.detach().requires_grad_(through_model)
            x0_hat = denoise(xt, t)
            if not through_model:
                x0_hat = x0_hat.detach().requires_grad_()
            elif not x0_hat.requires_grad:
                raise ValueError(
                    tr(
                        "got a denoiser without gradients, expected one that lets them pass: make it with "
                        "diffusion.denoiser(..., gradients=True), or leave out through_model."
                    )
                )
            (gradient,) = torch.autograd.grad(loss(x0_hat).sum(), xt if through_model else x0_hat)
        if through_model:
            strength = strength / a.clamp(min=FAINTEST).sqrt()
        x0_hat = x0_hat.detach() - strength * gradient
        return x0_hat.clamp(-1, 1) if clip else x0_hat

    return guided


def colour_loss(colour: Sequence[float]) -> PictureLoss:
    """The mean squared distance of a picture's pixels to a colour, three numbers in [-1, 1]: (B,)."""

    def loss(x0_hat):
        wanted = torch.tensor(colour, device=x0_hat.device, dtype=x0_hat.dtype).reshape(1, 3, 1, 1)
        return (x0_hat - wanted).square().mean((1, 2, 3))

    return loss


def cut_outs(
    x: Tensor, count: int, size_px: int, generator: torch.Generator | None = None, smallest: float = 0.7
) -> Tensor:
    """`count` squares of each picture (B, C, H, W), resized: (count * B, C, size_px, size_px).

    Each is at random between `smallest` and 1 times as wide as the picture, at a random place, and mirrored
    half of the time; the pictures of a batch are cut alike. Cut-out k of picture i has the index k * B + i.
    """
    side, pieces = x.shape[-1], []
    for _ in range(count):
        share, top, left, mirrored = torch.rand(4, generator=generator).tolist()
        width = round(side * (smallest + (1 - smallest) * share))
        top, left = round(top * (side - width)), round(left * (side - width))
        piece = x[..., top : top + width, left : left + width]
        piece = interpolate(piece, (size_px, size_px), mode="bilinear", antialias=True)
        pieces.append(piece.flip(-1) if mirrored < 0.5 else piece)
    return torch.cat(pieces)


def clip_loss(
    clip, tokenizer, processor, prompt: str, *, count: int = 4, generator: torch.Generator | None = None
) -> PictureLoss:
    """How badly pictures fit a sentence: 1 - cosine of their features (Radford et al. 2021): (B,), 0 to 2.

    It is the mean over `count` cut-outs, others at every call (Crowson et al. 2022): a change
    that only one crop of the picture falls for does not pay. clip, tokenizer, processor: a CLIPModel with
    its CLIPTokenizer and CLIPImageProcessor, of which only mean and standard deviation are used: it
    lets no gradients pass. generator: of the cut-outs, on the CPU.
    """
    tokens = tokenizer(prompt, truncation=True, return_tensors="pt").to(clip.device)
    with torch.no_grad():
        wanted = clip.text_projection(clip.text_model(**tokens).pooler_output)  # (1, D)

    def loss(x0_hat):
        pieces = cut_outs(x0_hat, count, clip.config.vision_config.image_size, generator)
        seen = scores.clip_features(clip, processor, pieces)  # (count * B, D)
        return 1 - cosine_similarity(seen, wanted).reshape(count, -1).mean(0)  # (count * B,) -> (B,)

    return loss
