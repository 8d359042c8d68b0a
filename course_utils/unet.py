"""The small U-Net of the course, written out: residual blocks, skips, attention at the lowest level.

The shape of the network is that of Ho et al. 2020, appendix B, after Ronneberger et al. 2015; its parts are
GroupNorm (Wu & He 2018), SiLU, a sinusoidal embedding of the timestep (Vaswani et al. 2017, section 3.5) and
self-attention. Diffusers' `UNet2DModel` is the same idea with more settings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t at `width` / 2 frequencies, from 1 down towards 1/10000: (B,) -> (B, width).

    Vaswani et al. 2017, section 3.5: [sin(t f_0), ..., cos(t f_0), ...] with f_i = 10000^(-i / (width / 2)).
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)  # (half,)
    angles = t.float()[:, None] * frequencies  # (B, 1) x (half,) -> (B, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # (B, width)


def _silence(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """Two convolutions that learn a correction to their input; the timestep is added between them."""

    def __init__(self, before: int, after: int, time_width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, after), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(time_width, after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        _silence(self.conv2)  # so that the block begins as its shortcut alone

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, before, H, W), (B, time_width) -> (B, after, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(emb)[:, :, None, None]  # (B, after, H, W) + (B, after, 1, 1)
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention: every place of the picture looks at every other (Vaswani et al. 2017, eq. 1)."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(8, width),
            nn.Conv2d(width, 3 * width, 1),
            nn.Conv2d(width, width, 1),
        )
        _silence(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H W, C / heads)
        seen = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, C / heads)
        return x + self.out(seen.transpose(-1, -2).reshape(b, c, h, w))


class UNet(nn.Module):
    """Noisy picture and timestep in, prediction of the same shape out: `model(xt, t)`.

    channels: of the picture. widths: channels at each resolution, multiples of 8; each resolution is half of
    the one before, so height and width must divide by 2 ** (len(widths) - 1). blocks: how many at each.
    timed: False leaves the timestep out, to measure what it is worth; t may then be anything.
    """

    def __init__(
        self, channels: int = 1, widths: tuple[int, ...] = (32, 64, 64), blocks: int = 1, timed: bool = True
    ):
        super().__init__()
        self.first, self.timed, time_width = widths[0], timed, 4 * widths[0]
        self.time = nn.Sequential(
            nn.Linear(self.first, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.enter = nn.Conv2d(channels, self.first, 3, padding=1)
        self.down, self.up, before, kept = nn.ModuleList(), nn.ModuleList(), self.first, []
        for level, width in enumerate(widths):
            if level > 0:
                self.down.append(nn.Conv2d(before, before, 3, stride=2, padding=1))
            for _ in range(blocks):
                self.down.append(ResidualBlock(before, width, time_width))
                kept.append(before := width)
        self.middle = nn.ModuleList([ResidualBlock(before, before, time_width), Attention(before)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(blocks):
                self.up.append(ResidualBlock(before + kept.pop(), width, time_width))
                before = width
            if level > 0:
                self.up.append(nn.Upsample(scale_factor=2, mode="nearest"))
        self.leave = nn.Sequential(
            nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, channels, 3, padding=1)
        )
        _silence(self.leave[-1])

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        """xt (B, channels, H, W), t (B,) -> (B, channels, H, W)."""
        emb = (
            timestep_embedding(t, self.first) if self.timed else xt.new_zeros(len(xt), self.first)
        )  # (B, first)
        emb = F.silu(self.time(emb))  # (B, 4 first)
        h, skips = self.enter(xt), []  # (B, first, H, W)
        for layer in self.down:
            if isinstance(layer, ResidualBlock):
                h = layer(h, emb)
                skips.append(h)
            else:
                h = layer(h)  # half the height and width
        block, attention = self.middle
        h = attention(block(h, emb))
        for layer in self.up:
            # skips come back in reverse: the last one down is the first one up
            h = layer(torch.cat([h, skips.pop()], 1), emb) if isinstance(layer, ResidualBlock) else layer(h)
        return self.leave(h)
