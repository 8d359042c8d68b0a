"""Train the VAE of the Stable Diffusion miniatures: 64 x 64 pixels to 8 x 8 latents of 4 channels, and back.

python -m recipes.vae          about 25 minutes on 2 CPU cores; goes on where it was stopped
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from course_utils import data, train
from recipes import common

STEPS, BATCH, PICTURES = 3000, 32, 40_000
KL_WEIGHT = 2e-5
RECIPE = train.Recipe(steps=STEPS, learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.998, weight_decay=1e-3)


def network() -> AutoencoderKL:
    """An untrained VAE: 3 halvings."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )
    nn.init.constant_(vae.quant_conv.bias.data[4:], -4.0)  # of the log-variance: little noise at first
    return vae


def loss(vae, x, generator):
    """Error of the pixels, absolute (sharp) and squared (soon right), error of the edges, and the KL term."""
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
    rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    edges = sum(nn.functional.l1_loss(rebuilt.diff(dim=dim), x.diff(dim=dim)) for dim in (2, 3))
    pixels = nn.functional.l1_loss(rebuilt, x) + 2 * nn.functional.mse_loss(rebuilt, x)
    return pixels + 0.5 * edges + KL_WEIGHT * posterior.kl().float().mean()


def main() -> None:
    """Train, and save with the scaling factor that gives the latents a variance of 1."""
    torch.manual_seed(0)
    pictures = common.scenes(PICTURES).images
    vae = common.fit(
        "vae",
        network(),
        RECIPE,
        lambda n: data.to_model(pictures[common.rows(n, BATCH, PICTURES)]),
        loss,
    )
    latents = encode(vae, pictures[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    vae.save_pretrained(common.RUNS / "vae-done")


def load() -> AutoencoderKL:
    """The finished VAE, from runs/vae: see `main`."""
    return AutoencoderKL.from_pretrained(common.RUNS / "vae-done").eval()


@torch.no_grad()
def encode(vae, images: torch.Tensor) -> torch.Tensor:
    """The posterior's means of uint8 pictures, not scaled: (N, 4, 8, 8)."""
    return torch.cat([vae.encode(data.to_model(part)).latent_dist.mean for part in images.split(100)])


@torch.no_grad()
def rebuild(vae, images: torch.Tensor) -> torch.Tensor:
    """Through the VAE and back: (N, 3, 64, 64) in [-1, 1]."""
    return torch.cat([vae.decode(part).sample.clamp(-1, 1) for part in encode(vae, images).split(100)])


if __name__ == "__main__":
    main()
