"""Train the U-Net of `sd-upscaler`: 16 x 16 pixels to 64 x 64, in the 16 x 16 latents of a VAE of its own."""

from __future__ import annotations

from functools import partial

import torch
from diffusers import DDPMScheduler, StableDiffusionUpscalePipeline, UNet2DConditionModel
from torch import Tensor, nn

from course_utils import data, diffusion, train
from recipes import common, score, sd, vae

PICTURES = 10_000
MAX_NOISE = (
    350  # of the small picture, in timesteps: Ho et al. 2022 (cascaded diffusion) call it augmentation
)
RECIPE = train.Recipe(steps=9600, learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.998)
FEW = 2  # steps
ABOUT = "Super-resolution: 16 x 16 pixels become 64 x 64."


def low_res_scheduler() -> DDPMScheduler:
    """How noise is added to the small picture."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def shrink(images: Tensor) -> Tensor:
    """uint8 (N, 3, 64, 64) -> (N, 3, 16, 16) in [-1, 1]."""
    return nn.functional.interpolate(data.to_model(images), (16, 16), mode="area")


def network() -> UNet2DConditionModel:
    """An untrained U-Net of three sizes that reads the text at the smallest: what the small picture shows
    needs few words."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=7,
        out_channels=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 48, 64),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
        num_class_embeds=1000,  # the level of noise on the small picture
    )


def loss(model, batch, generator):
    """Mean squared error of v; the small picture lies beside xt, noised, and the network is told how much."""
    x0, text, small = batch
    level = torch.randint(0, MAX_NOISE, (len(x0),), generator=generator, device=x0.device)
    noise = torch.randn(small.shape, generator=generator, device=x0.device)
    noised = diffusion.add_noise(small, noise, level, diffusion.cosine_alpha_bar())
    return sd.conditional_loss(partial(model, class_labels=level), (x0, text, noised), generator)


def build() -> None:
    """Train it, save it with its card, and print how good it is."""
    torch.manual_seed(0)
    scenes, auto = common.scenes(common.PICTURES)[:PICTURES], vae.load("vae-upscaler")
    parts = (*sd.conditions(scenes, "vae-upscaler"), shrink(scenes.images))
    unet = common.fit("sd-upscaler", network(), RECIPE, lambda n: sd.batch_at(n, *parts), loss)
    more = {"low_res_scheduler": low_res_scheduler(), "max_noise_level": MAX_NOISE}
    pipeline = sd.assemble(StableDiffusionUpscalePipeline, unet, vae=auto, **more)
    common.publish("sd-upscaler", pipeline, ABOUT, facts(pipeline))


def facts(pipeline) -> dict[str, str]:
    """For the card: what `measured` says."""
    return {"PSNR": ", ".join(f"{name}: {decibels:.1f} dB" for name, decibels in measured(pipeline).items())}


def measured(pipeline, count: int = 200, seed: int = common.TEST_SEED) -> dict[str, float]:
    """PSNR in dB: of the upscaler, of bicubic enlargement, and of the autoencoder alone.

    With few steps the upscaler stays near the mean of all that may have been there, which the squared error
    rewards; with many it commits itself to one of them (Blau & Michaeli 2018).
    """
    scenes = data.scenes(count, seed=seed, combinations="any")
    small, x = shrink(scenes.images), data.to_model(scenes.images)
    settings = {"image": list((small + 1) / 2), "noise_level": 0, "guidance_scale": 1.0}
    pictures = {
        f"{steps} steps": score.generate(pipeline, list(scenes.captions), steps=steps, **settings)
        for steps in (25, FEW)
    }
    pictures["bicubic"] = nn.functional.interpolate(small, (64, 64), mode="bicubic").clamp(-1, 1)
    pictures["through the VAE"] = vae.rebuild(pipeline.vae, scenes.images)
    return {name: psnr(y, x) for name, y in pictures.items()}


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    error = (a - b).square().mean((1, 2, 3))
    return (10 * torch.log10(4 / error)).mean().item()
