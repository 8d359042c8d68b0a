"""The other side of the comparisons: the training loop and the recipe that courses commonly publish."""

from __future__ import annotations

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


class Pictures(torch.utils.data.Dataset):
    """One picture at a time, mirrored at random and brought to [-1, 1], as a DataLoader wants it."""

    def __init__(self, images: ImageSet):
        self.images = images.images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        x = self.images[index].float() / 255
        return (x.flip(-1) if torch.rand(()) < 0.5 else x) * 2 - 1


def plain_loop(
    model: nn.Module,
    images: ImageSet,
    scheduler: DDPMScheduler,
    *,
    batch_size: int,
    steps: int,
    rate_at: Callable[[int], float],
) -> Iterator[Tensor]:
    """float32, one process, a DataLoader in the foreground, AdamW: yields the loss after each step."""
    loader = torch.utils.data.DataLoader(Pictures(images), batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate_at(0))
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
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            yield loss.detach()
            if step == steps:
                return
