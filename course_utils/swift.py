"""Stable Diffusion's U-Net written out for sampling: what is the same at every step is computed once.

The layers are those of a UNet2DConditionModel of Diffusers, and so are the answers, but for rounding. What a
call of the model computes anew each time, though only zt has changed, is known here beforehand: each layer's
keys and values of the text, and each block's share of the timestep. Queries, keys and values of the pixels
come from one product. A pixel's channels lie side by side in memory, as convolutions and transformers both
like them, so nothing is copied from the one order to the other. And sums are formed in place, which saves
fetching and storing numbers. What is left is plain to read, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, scaled_dot_product_attention, silu

from course_utils.attention import split_heads
from course_utils.messages import tr

BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
SIZES = {
    "sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "norm_num_groups",
    "cross_attention_dim", "attention_head_dim", "num_attention_heads", "transformer_layers_per_block",
    "use_linear_projection", "upcast_attention", "down_block_types", "up_block_types", "norm_eps",
    "flip_sin_to_cos", "freq_shift",
}  # fmt: skip


class Swift:
    """A U-Net that knows its text and its timesteps: (zt (B, C, h, w), t (B,), all alike) -> its output.

    states: what each of the B is told, (B, 77, width). ts: every timestep that will come. For sampling:
    without gradients, and without dropout. Raises ValueError if the U-Net has parts that those of Stable
    Diffusion 1 and 2 (Rombach et al. 2022) lack.
    """

    def __init__(self, unet, states: Tensor, ts: Sequence[int]):
        _require_known(unet)
        self.unet, self.numbers = unet, {t: number for number, t in enumerate(ts)}
        t = torch.tensor(ts, device=unet.device)
        moments = silu(unet.time_embedding(unet.time_proj(t).to(unet.dtype)))  # (steps, D)
        parts = list(unet.modules())
        self.shifts = {
            part: part.time_emb_proj(moments)[:, :, None, None]  # (steps, C, 1, 1)
            for part in parts
            if hasattr(part, "time_emb_proj")
        }
        self.text = {
            part: [split_heads(to(states), part.attn2.heads) for to in (part.attn2.to_k, part.attn2.to_v)]
            for part in parts
            if hasattr(part, "attn2")
        }
        self.looks = {part.attn1: _as_one(part.attn1) for part in parts if hasattr(part, "attn2")}

    def __call__(self, zt: Tensor, t: Tensor) -> Tensor:
        """(B, C, h, w), (B,) -> (B, C, h, w)."""
        unet, number = self.unet, self.numbers[int(t[0])]
        h = unet.conv_in(zt.to(unet.dtype, memory_format=torch.channels_last))
        kept = [h]
        for block in unet.down_blocks:
            for resnet, attention in _layers(block):
                h = self._attend(attention, self._convolve(resnet, h, number))
                kept.append(h)
            for halve in block.downsamplers or ():
                h = halve(h)
                kept.append(h)
        first, *others = unet.mid_block.resnets
        h = self._convolve(first, h, number)
        for attention, resnet in zip(unet.mid_block.attentions, others, strict=True):
            h = self._convolve(resnet, self._attend(attention, h), number)
        for block in unet.up_blocks:
            for resnet, attention in _layers(block):
                h = torch.cat([h, kept.pop()], 1)
                h = self._attend(attention, self._convolve(resnet, h, number))
            for double in block.upsamplers or ():
                h = double(h)
        return unet.conv_out(silu(unet.conv_norm_out(h)))

    def _convolve(self, part, h, number):
        """A residual block: (B, C, h, w) -> (B, C', h, w); the timestep adds to each channel."""
        x = part.conv1(silu(part.norm1(h), inplace=True))
        x += self.shifts[part][number]
        x = part.conv2(silu(part.norm2(x), inplace=True))
        x += h if part.conv_shortcut is None else part.conv_shortcut(h)
        return x

    def _attend(self, part, h):
        """A transformer: each pixel looks at all pixels, then at the text: (B, C, h, w) -> the same."""
        if part is None:
            return h
        x = part.norm(h).flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h * w, C)
        x = _project(part.proj_in, x)
        for layer in part.transformer_blocks:
            looks = linear(layer.norm1(x), self.looks[layer.attn1]).chunk(3, -1)
            x += _attention(layer.attn1, *(split_heads(look, layer.attn1.heads) for look in looks))
            query = split_heads(layer.attn2.to_q(layer.norm2(x)), layer.attn2.heads)
            x += _attention(layer.attn2, query, *self.text[layer])
            value, gate = layer.ff.net[0].proj(layer.norm3(x)).chunk(2, -1)
            x += layer.ff.net[2](gelu(gate).mul_(value))
        h += _project(part.proj_out, x).transpose(1, 2).unflatten(2, h.shape[2:])
        return h


def _layers(block):
    """The residual blocks of a block, each with the transformer behind it, or None."""
    return zip(block.resnets, getattr(block, "attentions", [None] * len(block.resnets)), strict=True)


def _attention(part, query, keys, values):
    answer = scaled_dot_product_attention(query, keys, values)
    return part.to_out[0](answer.transpose(1, 2).flatten(2))  # (B, heads, N, C / heads) -> (B, N, C)


def _as_one(part):
    """What makes queries, keys and values, adapters included, as one matrix: (3 C, C)."""
    maps = (part.to_q, part.to_k, part.to_v)
    unit = torch.eye(part.to_q.in_features, device=part.to_q.weight.device, dtype=part.to_q.weight.dtype)
    return torch.cat([to(unit).T for to in maps])


def _project(part, x):
    """A linear layer, in some U-Nets kept as a convolution of one pixel: (B, N, C) -> (B, N, C')."""
    return linear(x, part.weight.flatten(1), part.bias)


def _require_known(unet):
    usual = inspect.signature(type(unet).__init__).parameters
    odd = [
        f"{name}={value}"
        for name, value in unet.config.items()
        if name in usual and name not in SIZES and value != usual[name].default
    ]
    odd += sorted({*unet.config.down_block_types, *unet.config.up_block_types} - BLOCKS)
    if odd:
        raise ValueError(
            tr(
                "got a U-Net with {parts}, expected one like those of Stable Diffusion 1 and 2: call its "
                "pipeline instead.",
                parts=", ".join(odd),
            )
        )
