"""The parts of Stable Diffusion's pipelines, one at a time, and what the pipelines do without saying so.

Latents z are (B, C, H, W) with a variance of about 1: the VAE's own times its scaling factor (Rombach et al.
2022, section D.1). Gradients pass through all of it unless the caller has switched them off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from course_utils import diffusion, profile
from course_utils.data import scene_words


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
    prediction = {theirs: ours for ours, theirs in diffusion.PREDICTIONS.items()}

    def predict(zt, t):
        return unet(zt.to(unet.dtype), t, encoder_hidden_states=states).sample.to(zt.dtype)

    alpha_bar, kind = scheduler.alphas_cumprod, prediction[scheduler.config.prediction_type]
    return diffusion.denoiser(predict, alpha_bar, kind, clip=False, gradients=gradients)


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
        yield (
            f"Got a prompt of {len(ids)} tokens with its start and end, expected at most {longest}: the "
            f"rest, from {' '.join(lost[:5])!r} on, is cut off."
        )
    said = dict.fromkeys(word.strip(".,;:!?") for word in prompt.lower().split())
    strange = [word for word in said if word and word not in scene_words()]
    if strange and profile.scale() == "mini":
        yield (
            f"Got words that the miniature has never met ({', '.join(strange)}), expected those of "
            "data.scene_words(): it draws something, but not that."
        )


def _about_guidance(scale, negative_prompt) -> Iterator[str]:
    if scale < 1:
        yield (
            f"Got guidance_scale={scale:g}, expected at least 1, which is off: less counts as 1, so the "
            "prompt is drawn; pass an empty prompt to leave it out."
        )
    if scale <= 1 and negative_prompt:
        yield (
            f"Got a negative prompt with guidance_scale={scale:g}, expected more than 1: without guidance it "
            "is not read."
        )


def _about_strength(strength, steps) -> Iterator[str]:
    if strength is not None and start_step(steps, strength) == steps:
        yield (
            f"Got strength={strength:g} with {steps} steps, which leaves none to take, expected at least "
            f"{1 / steps:g}: below that the answer is the picture itself."
        )


def _about_size(height, width, side) -> Iterator[str]:
    sizes = {"height": height, "width": width}
    for name, size_px in sizes.items():
        if size_px is not None and size_px % side:
            low = size_px // side * side
            yield (
                f"Got {name}={size_px}, expected a multiple of {side}, the width of one latent: take {low} "
                f"or {low + side}."
            )
    given = [f"{name}={size_px}" for name, size_px in sizes.items() if size_px]
    if len(given) == 1:
        yield f"Got {given[0]} alone, expected height and width: without the other, text-to-image ignores it."


def _about_image(image, side) -> Iterator[str]:
    if image is None:
        return
    if image.mode != "RGB":
        why = "four channels pass for latents" if image.mode == "RGBA" else "the VAE takes three channels"
        yield f"Got an image of mode {image.mode}, expected RGB, since {why}: data.square() makes one of it."
    if image.width % side or image.height % side:
        width, height = (size // side * side for size in image.size)
        yield (
            f"Got an image of {image.width} x {image.height} pixels, expected multiples of {side}: "
            f"it is squeezed, to {width} x {height} by image-to-image."
        )


def _about_mask(image, mask) -> Iterator[str]:
    if image is not None and mask is not None and image.width * mask.height != image.height * mask.width:
        yield (
            f"Got a mask of {mask.width} x {mask.height} pixels for an image of {image.width} x "
            f"{image.height}, expected the same proportions: each is stretched to the size of the result."
        )
