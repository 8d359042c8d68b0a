"""How much memory a step of training needs: counted tensor by tensor, on any device, or on none at all."""

from __future__ import annotations

import copy
import weakref
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from course_utils import train


@dataclass(frozen=True)
class Footprint:
    """Bytes. weights: of the network. optimiser: Adam's two averages. step: the most that is alive at once
    beside them in a step: activations, gradients, copies in half precision, temporary results."""

    weights: int
    optimiser: int
    step: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.optimiser + self.step


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside the block and alive: `now`, and their `peak`."""

    def __init__(self, known):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage):
        key = storage._cdata
        if key in self.known or key in self.alive:  # changed in place, or looked at from elsewhere
            return
        self.alive[key] = storage.nbytes()
        self.now += self.alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key):
        self.now -= self.alive.pop(key)


def footprint(model: nn.Module, batch, loss: train.Loss, recipe: train.Recipe) -> Footprint:
    """What one step of `train.train` with one batch needs: see `Footprint`. The weights are left as they
    were; gradients are gone afterwards.

    Model and batch may be on the device "meta", where tensors have a shape and no content: then nothing is
    computed, and networks of any size can be measured on any machine, as if they were on a CPU. Counted are
    the tensors' own bytes; an allocator rounds up, and a GPU's context and buffers come on top.
    """
    weights = [*model.parameters(), *model.buffers()]
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with _imagining(model, batch) as (its_twin, its_batch):
        step = _step(its_twin, its_batch, loss, recipe.precision)
    return Footprint(sum(w.nbytes for w in weights), 2 * learning * recipe.adam_bits // 8, step)


def _step(model, batch, loss, precision):
    """The peak of a loss and its gradients."""
    known = [*model.parameters(), *model.buffers(), *tree_leaves(batch)]
    training, device = model.training, known[0].device
    model.train().zero_grad()
    with _Allocations(known) as made:
        with train.autocast(device, precision):
            value = loss(model, batch, torch.Generator(device).manual_seed(0))
        value.backward()
    model.train(training).zero_grad()
    return made.peak


@contextmanager
def _imagining(model, batch):
    """Model and batch; for those on "meta", twins that claim to be on a CPU, so that autocast works."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if next(model.parameters()).device.type != "meta":
        yield model, batch
        return
    twin = copy.deepcopy(model)
    with FakeTensorMode(allow_non_fake_inputs=True):  # the loss may hold a schedule
        for module in twin.modules():
            for table in (module._parameters, module._buffers):
                table |= {name: _twin(value) for name, value in table.items() if value is not None}
        yield twin, tree_map(_twin, batch)


def _twin(value):
    made = torch.empty(value.shape, dtype=value.dtype)
    return nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made
