"""Train the VAE of the Stable Diffusion miniatures: 64 x 64 pixels to 8 x 8 latents of 4 channels, and back;
and that of the upscaler, with latents of 16 x 16."""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKL
from torch import nn

from course_utils import data, train
from recipes import common

BATCH = 32
KL_WEIGHT = 2e-5
SUBJECT_WEIGHT = 4  # of a pixel of the subject beside one of the background, which is larger and easier
PLANS = {"vae": ((32, 64, 96, 96), 5000), "vae-upscaler": ((32, 48, 64), 800)}  # name -> widths, steps
DECODER = train.Recipe(
    steps=4800, learning_rate=7e-4, warmup_steps=100, ema_decay=0.998, weight_decay=1e-3
)  # once more, alone
LATENT_NOISE = 0.07  # as large as the posterior's
UPSCALER_FACTOR = 0.08333  # StableDiffusionUpscalePipeline insists on this scaling factor


def network(widths: tuple[int, ...]) -> AutoencoderKL:
    """An untrained VAE; between two widths the picture is halved."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )
    nn.init.constant_(vae.quant_conv.bias.data[4:], -4.0)  # of the log-variance: little noise at first
    return vae


def loss(vae, batch, generator):
    """Error of the pixels, absolute (sharp) and squared (soon right), error of the edges, and the KL term.

    batch: pictures, and the weight of each pixel, (N, 1, H, W), 1 on average.
    """
    x, weight = batch
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
    errors = visible(vae.decode(posterior.mean + posterior.std * noise).sample.float() - x, weight)
    return errors + KL_WEIGHT * posterior.kl().float().mean()


def visible(error: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """How much of an error (N, 3, H, W) is seen: in the pixels, and at the edges."""
    pixels = weight * (error.abs() + 2 * error.square())
    edges = weight[..., 1:, :] * error.diff(dim=2).abs(), weight[..., 1:] * error.diff(dim=3).abs()
    return pixels.mean() + 0.5 * sum(edge.mean() for edge in edges)


def decoder_loss(decoder, batch, generator):
    """As `loss`, of the decoder alone. batch: latents as the encoder gives them, pictures, and weights."""
    z, x, weight = batch
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    return visible(decoder(z + LATENT_NOISE * noise).float() - x, weight)


def build() -> None:
    """Train both, each saved with the factor that gives its latents a variance of 1; one decoder goes on."""
    for name in PLANS:
        make(name)
    finish_decoder()


def make(name: str) -> None:
    """Train one, the larger in about two hours on 2 CPU cores; goes on where it was stopped."""
    torch.manual_seed(0)
    widths, steps = PLANS[name]
    recipe = train.Recipe(
        steps=steps, learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.998, weight_decay=1e-3
    )
    scenes = common.scenes(common.PICTURES)

    def batch_at(n):
        chosen = common.rows(n, BATCH, common.PICTURES)
        return data.to_model(scenes.images[chosen]), pixel_weights(scenes.masks[chosen])

    vae = common.fit(name, network(widths), recipe, batch_at, loss)
    size = encode(vae, scenes.images[:2000]).std().item()
    if name == "vae-upscaler":
        magnify(vae, 1 / (UPSCALER_FACTOR * size))
        size = 1 / UPSCALER_FACTOR
    vae.register_to_config(scaling_factor=round(1 / size, 5))
    vae.save_pretrained(common.RUNS / f"{name}-done")


def finish_decoder() -> None:
    """Train the decoder on, with the encoder as it is, so that what was trained on its latents stays right.

    As was done for Stable Diffusion's: https://huggingface.co/stabilityai/sd-vae-ft-mse.
    """
    vae, scenes = load(), common.scenes(common.PICTURES)
    z, scale = latents("vae", scenes.images), vae.config.scaling_factor

    def batch_at(n):
        chosen = common.rows(n, BATCH, common.PICTURES)
        return z[chosen] / scale, data.to_model(scenes.images[chosen]), pixel_weights(scenes.masks[chosen])

    decoder = nn.Sequential(vae.post_quant_conv, vae.decoder).train()
    finished = common.fit("vae-decoder", decoder, DECODER, batch_at, decoder_loss)
    decoder.load_state_dict(finished.state_dict())
    vae.save_pretrained(common.RUNS / "vae-done")


def pixel_weights(masks: torch.Tensor) -> torch.Tensor:
    """How much each pixel counts: (N, 1, H, W), 1 on average. masks: the subjects, uint8 (N, 1, H, W)."""
    weights = 1 + (SUBJECT_WEIGHT - 1) * masks.float() / 255
    return weights / weights.mean()


@torch.no_grad()
def magnify(vae: AutoencoderKL, factor: float) -> None:
    """Make the latents `factor` times as large; what is decoded stays the same."""
    vae.quant_conv.weight[:4] *= factor
    vae.quant_conv.bias[:4] *= factor
    vae.quant_conv.bias[4:] += 2 * math.log(factor)  # the log-variance
    vae.post_quant_conv.weight /= factor


def load(name: str = "vae") -> AutoencoderKL:
    """A finished VAE, from runs/: see `make`."""
    return AutoencoderKL.from_pretrained(common.RUNS / f"{name}-done").eval()


@torch.no_grad()
def encode(vae, images: torch.Tensor) -> torch.Tensor:
    """The posterior's means of uint8 pictures, not scaled: (N, 4, height, width)."""
    return torch.cat([vae.encode(data.to_model(part)).latent_dist.mean for part in images.split(100)])


def latents(name: str, images: torch.Tensor) -> torch.Tensor:
    """Of the training pictures, by the VAE `name`, with a variance of 1; kept in runs/."""
    vae = load(name)
    return common.kept(f"{name}-latents", lambda: encode(vae, images) * vae.config.scaling_factor)


@torch.no_grad()
def rebuild(vae, images: torch.Tensor) -> torch.Tensor:
    """Through the VAE and back: (N, 3, 64, 64) in [-1, 1]."""
    return torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in encode(vae, images).split(100)])
