"""The parts of Stable Diffusion's pipelines, one at a time, and what the pipelines do without saying so.

Latents z are (B, C, H, W) with a variance of about 1: the VAE's own times its scaling factor (Rombach et al.
2022, appendix G; why it matters: D.1). Gradients pass through all of it unless the caller has switched them
off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from course_utils import diffusion, profile, swift, train
from course_utils.data import scene_words
from course_utils.messages import tr


def encode(vae, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> latents (B, C, H / 8, W / 8) for a VAE that halves three times.

    The mean of what the encoder holds possible; with a generator, a draw from it, as the pipelines take it.
    """
    posterior = vae.encode(x.to(vae.device, vae.dtype)).latent_dist
    z = posterior.mean if generator is None else posterior.sample(generator)
    return z * vae.config.scaling_factor


def decode(vae, z: Tensor) -> Tensor:
    """Latents (B, C, H, W) -> pictures (B, 3, 8 H, 8 W), cut to [-1, 1]."""
    return vae.decode(z.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample.clamp(-1, 1)


def tokens(pipeline, prompts: Sequence[str]) -> Tensor:
    """Prompts as the text encoder takes them: int64, (B, 77).

    Shorter prompts are padded to 77 tokens, longer ones cut: see `caveats`.
    """
    longest = pipeline.tokenizer.model_max_length
    settings = {"padding": "max_length", "max_length": longest, "truncation": True, "return_tensors": "pt"}
    return pipeline.tokenizer(list(prompts), **settings).input_ids.to(pipeline.text_encoder.device)


def read(pipeline, prompts: Sequence[str]) -> Tensor:
    """What the U-Net is told of prompts: the text encoder's last hidden states, (B, 77, width)."""
    return pipeline.text_encoder(tokens(pipeline, prompts)).last_hidden_state


def denoiser(pipeline, states: Tensor, gradients: bool = False) -> diffusion.Denoiser:
    """The pipeline's U-Net, told `states` (B, 77, width), as (xt, t) -> x0_hat in latents, both (B, C, H, W).

    The samplers of `diffusion` and the denoisers of `guidance` take it; the schedule that they need is
    `pipeline.scheduler.alphas_cumprod`. Gradients pass only if `gradients` is true.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler

    def predict(zt, t):
        return unet(zt.to(unet.dtype), t, encoder_hidden_states=states).sample.to(zt.dtype)

    alpha_bar, kind = scheduler.alphas_cumprod, diffusion.prediction_of(scheduler)
    return diffusion.denoiser(predict, alpha_bar, kind, clip=False, gradients=gradients)


@torch.inference_mode()
def draw(
    pipeline,
    prompts: Sequence[str],
    *,
    steps: int = 25,
    scale: float = 7.5,
    generator: torch.Generator | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Text to picture, as a call of the pipeline does it by DDIM, in less time: (B, 3, H, W) in [-1, 1].

    The same pictures, if the scheduler is a DDIMScheduler that begins with the last timestep ("trailing") and
    `steps` divides their number. Less time, because the U-Net reads text and timesteps once (see `swift`),
    the empty prompt is one for all, and no step does anything but what it must. precision: see
    `train.Recipe`; with less than "fp32" pictures differ by some shades of 255. Raises ValueError for a U-Net
    unlike those of Stable Diffusion 1 and 2.
    """
    unet, scheduler, prompts = pipeline.unet, pipeline.scheduler, list(prompts)
    shape = (len(prompts), unet.config.in_channels, *[unet.config.sample_size] * 2)
    zt = torch.randn(shape, generator=generator, device=generator.device if generator else None)
    alpha_bar = scheduler.alphas_cumprod
    ts = diffusion.spaced_timesteps(steps, len(alpha_bar))
    with train.autocast(unet.device, precision):
        *asked, empty = read(pipeline, [*prompts, ""])
        states = torch.stack([empty] * len(asked) + asked if scale > 1 else asked)  # (2 B or B, 77, width)
        network = swift.Swift(unet, states, ts)
        denoise = diffusion.denoiser(network, alpha_bar, diffusion.prediction_of(scheduler), clip=False)

        def guided(zt, t):
            plain, wanted = denoise(torch.cat([zt, zt]), torch.cat([t, t])).chunk(2)  # one call for both
            return plain + scale * (wanted - plain)

        walk = diffusion.ddim(guided if scale > 1 else denoise, zt.to(unet.device), alpha_bar, ts)
        return decode(pipeline.vae, diffusion.last(walk)).float()


def start_step(steps: int, strength: float) -> int:
    """How many of `steps` image-to-image leaves out, so that it takes strength * steps, rounded down.

    The rule of the pipelines of Diffusers. strength: 0 (all are left out) to 1 (none is).
    """
    return steps - min(int(steps * strength), steps)


# What a pipeline makes of a call, where it differs from what the call says


def caveats(
    pipeline,
    prompt: str = "",
    *,
    negative_prompt: str | None = None,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 50,
    strength: float | None = None,
    height: int | None = None,
    width: int | None = None,
    image=None,
    mask_image=None,
) -> list[str]:
    """A sentence for each thing in a call that a pipeline silently does otherwise, or fails at obscurely.

    The arguments are those of a call, with the pipelines' own defaults. image, mask_image: PIL images. An
    empty list: the call means what it says.
    """
    side = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return [
        *_about_text(pipeline.tokenizer, prompt),
        *_about_guidance(guidance_scale, negative_prompt),
        *_about_strength(strength, num_inference_steps),
        *_about_size(height, width, side),
        *_about_image(image, side),
        *_about_mask(image, mask_image),
    ]


def _about_text(tokenizer, prompt) -> Iterator[str]:
    longest = tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    if len(ids) > longest:
        lost = tokenizer.decode(ids[longest - 1 : -1]).split()
        yield tr(
            "Got a prompt of {count} tokens with its start and end, expected at most {longest}: the "
            "rest, from {words!r} on, is cut off.",
            count=len(ids),
            longest=longest,
            words=" ".join(lost[:5]),
        )
    said = dict.fromkeys(word.strip(".,;:!?") for word in prompt.lower().split())
    strange = [word for word in said if word and word not in scene_words()]
    if strange and profile.scale() == "mini":
        yield tr(
            "Got words that the miniature has never met ({words}), expected those of "
            "data.scene_words(): it draws something, but not that.",
            words=", ".join(strange),
        )


def _about_guidance(scale, negative_prompt) -> Iterator[str]:
    if scale < 1:
        yield tr(
            "Got guidance_scale={scale:g}, expected at least 1, which is off: less counts as 1, so the "
            "prompt is drawn; pass an empty prompt to leave it out.",
            scale=scale,
        )
    if scale <= 1 and negative_prompt:
        yield tr(
            "Got a negative prompt with guidance_scale={scale:g}, expected more than 1: without "
            "guidance it is not read.",
            scale=scale,
        )


def _about_strength(strength, steps) -> Iterator[str]:
    if strength is not None and start_step(steps, strength) == steps:
        yield tr(
            "Got strength={strength:g} with {steps} steps, which leaves none to take, expected at "
            "least {least:g}: below that the pipeline fails, and only that of inpainting says why.",
            strength=strength,
            steps=steps,
            least=-(-1000 // steps) / 1000,  # rounded up: 3 * 0.333 is less than a step
        )


def _about_size(height, width, side) -> Iterator[str]:
    sizes = {"height": height, "width": width}
    for name, size_px in sizes.items():
        if size_px is not None and size_px % side:
            low = max(1, size_px // side) * side
            yield tr(
                "Got {name}={size_px}, expected a multiple of {side}, the width of one latent: take "
                "{low} or {high}.",
                name=name,
                size_px=size_px,
                side=side,
                low=low,
                high=low + side,
            )
    given = [f"{name}={size_px}" for name, size_px in sizes.items() if size_px]
    if len(given) == 1:
        yield tr(
            "Got {given} alone, expected height and width: without the other, text-to-image ignores it.",
            given=given[0],
        )


def _about_image(image, side) -> Iterator[str]:
    if image is None:
        return
    if image.mode != "RGB":
        latents = image.mode == "RGBA"
        why = tr("four channels pass for latents") if latents else tr("the VAE takes three channels")
        yield tr(
            "Got an image of mode {mode}, expected RGB, since {why}: data.square() makes one of it.",
            mode=image.mode,
            why=why,
        )
    if image.width % side or image.height % side:
        width, height = (size // side * side for size in image.size)
        yield tr(
            "Got an image of {width} x {height} pixels, expected multiples of {side}: it is squeezed, "
            "to {new_width} x {new_height} by image-to-image.",
            width=image.width,
            height=image.height,
            side=side,
            new_width=width,
            new_height=height,
        )


def _about_mask(image, mask) -> Iterator[str]:
    if image is not None and mask is not None and image.width * mask.height != image.height * mask.width:
        yield tr(
            "Got a mask of {mask_width} x {mask_height} pixels for an image of {width} x {height}, "
            "expected the same proportions: each is stretched to the size of the result.",
            mask_width=mask.width,
            mask_height=mask.height,
            width=image.width,
            height=image.height,
        )
