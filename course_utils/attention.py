"""Cross-attention maps: which pixels of a U-Net listen to which token of the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from course_utils.messages import none_of, tr

NEEDED = ("to_q", "to_k", "heads", "scale")  # of Diffusers' Attention


class Listener:
    """An attention processor of Diffusers that lets another one compute, and notes the cross-attention."""

    def __init__(self, inner, record: Record):
        self.inner, self.record = inner, record

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        """hidden_states: (B, h * w, C). encoder_hidden_states: of the text, (B, L, D), or None."""
        if encoder_hidden_states is not None:
            self.record.note(probabilities(attn, hidden_states, encoder_hidden_states))
        return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


class Record:
    """The cross-attention of a network's passes; see `recorded`."""

    def __init__(self):
        self._noted: list[Tensor] = []

    def note(self, share: Tensor) -> None:
        """Keep the attention of one layer, (B, heads, h * w, L), averaged over its heads."""
        self._noted.append(share.detach().float().mean(1))

    def take(self, size: int) -> Tensor:
        """The maps since the last take, averaged over the layers with size x size places: (B, L, size, size).

        At each place they add up to 1. Layers of other sizes are left out. Raises RuntimeError if nothing was
        noted, and ValueError if no layer has this size or a picture is not square.
        """
        if not self._noted:
            raise RuntimeError(
                tr("got no cross-attention, expected some: call the U-Net with encoder_hidden_states first.")
            )
        maps = [_as_maps(one) for one in self._noted]
        self._noted.clear()
        fitting = [one for one in maps if one.shape[-1] == size]
        if not fitting:
            raise ValueError(none_of("size", size, sorted({str(one.shape[-1]) for one in maps})))
        return torch.stack(fitting).mean(0)


@contextmanager
def recorded(unet) -> Iterator[Record]:
    """Within the block, note the cross-attention of a UNet2DConditionModel; its answers stay what they are.

    Afterwards the U-Net has the processors back that it had.
    """
    record, before = Record(), unet.attn_processors
    unet.set_attn_processor({name: Listener(inner, record) for name, inner in before.items()})
    try:
        yield record
    finally:
        unet.set_attn_processor(before)


def probabilities(attn, hidden_states: Tensor, text: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)), Vaswani et al. 2017, eq. 1, of a Diffusers `Attention`: (B, heads, h * w, L).

    hidden_states: (B, h * w, C). text: (B, L, D). Raises AttributeError if `Attention` has changed.
    """
    missing = [name for name in NEEDED if not hasattr(attn, name)]
    if missing:
        import diffusers

        raise AttributeError(
            tr(
                "got an attention layer of Diffusers {version} without {missing}, expected its Attention "
                "of versions 0.35 on: install the version in the course's constraints.txt.",
                version=diffusers.__version__,
                missing=", ".join(missing),
            )
        )
    query, key = (split_heads(x, attn.heads) for x in (attn.to_q(hidden_states), attn.to_k(text)))
    return (query @ key.transpose(-1, -2) * attn.scale).softmax(-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _as_maps(share):
    side = round(share.shape[1] ** 0.5)
    if side * side != share.shape[1]:
        raise ValueError(
            tr(
                "got attention of {count} places, expected a square: ask for a square picture.",
                count=share.shape[1],
            )
        )
    return share.transpose(1, 2).unflatten(-1, (side, side))  # (B, h * w, L) -> (B, L, h, w)


def half_way(maps: Tensor) -> Tensor:
    """Where each map, (..., H, W), is above the middle between its lowest and its highest value: bool."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return maps > (low + high) / 2


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of two areas, bool (..., H, W): 1 if they are the same, 0 if they are apart."""
    return (a & b).sum((-2, -1)) / (a | b).sum((-2, -1)).clamp(min=1)
