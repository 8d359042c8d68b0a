"""The other side of the comparisons: the loop, networks and recipes that a learner finds published."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from course_utils.data import ImageSet


def wide_unet() -> UNet2DModel:
    """The commonly published network for 32 x 32 pixels: 18.5 M parameters."""
    return UNet2DModel(
        sample_size=32,
        layers_per_block=2,
        block_out_channels=(64, 128, 128, 256),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def small_unet() -> UNet2DModel:
    """The course's network for 32 x 32 pixels: 1.8 M parameters."""
    return UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def example_unet() -> UNet2DModel:
    """The network of Diffusers' unconditional example, here for 32 x 32 pixels: 114 M parameters."""
    return UNet2DModel(
        sample_size=32,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )


def example_rate(pictures: int) -> Callable[[int], float]:
    """The rate of Diffusers' example at each step: 500 steps up to 1e-4, a cosine down over 100 passes."""
    total, warm_up = 100 * math.ceil(pictures / 16), 500

    def rate_at(step):
        done = (step - warm_up) / max(1, total - warm_up)
        return 1e-4 * (step / warm_up if step < warm_up else max(0.0, 0.5 + 0.5 * math.cos(math.pi * done)))

    return rate_at


class Pictures(torch.utils.data.Dataset):
    """One picture at a time, mirrored at random and brought to [-1, 1], as a DataLoader wants it."""

    def __init__(self, images: ImageSet):
        self.images = images.images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        x = self.images[index].float() / 255
        return (x.flip(-1) if torch.rand(()) < 0.5 else x) * 2 - 1


EXAMPLE_ADAM = {"betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8}


def plain_loop(
    model: nn.Module,
    images: ImageSet,
    scheduler: DDPMScheduler,
    *,
    batch_size: int = 16,
    steps: int,
    rate_at: Callable[[int], float],
    adam: dict = EXAMPLE_ADAM,
    max_norm: float | None = 1.0,
) -> Iterator[Tensor]:
    """The loop of Diffusers' unconditional example with its defaults: yields the loss after each step.

    float32, one process, a DataLoader in the foreground, AdamW, clipped gradients.
    """
    loader = torch.utils.data.DataLoader(Pictures(images), batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate_at(0), **adam)
    step = 0
    while step < steps:
        for x0 in loader:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step)
            eps = torch.randn_like(x0)
            t = torch.randint(0, scheduler.config.num_train_timesteps, (len(x0),))
            xt = scheduler.add_noise(x0, eps, t)
            wanted = x0 if scheduler.config.prediction_type == "sample" else eps
            loss = nn.functional.mse_loss(model(xt, t).sample, wanted)
            loss.backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            yield loss.detach()
            if step == steps:
                return
