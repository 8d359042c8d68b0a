"""One training loop: a generator that yields a record after each step.

What is random in step n (pictures, timesteps, noise) depends on the seed and n alone. So a checkpoint holds
only the networks, the optimiser and n, and a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils import diffusion, profile
from course_utils.messages import none_of, tr

PRECISIONS = ("auto", "bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    steps: optimiser steps in all. learning_rate: the highest; reached after `warmup_steps`, then falling
    linearly to 0. ema_decay: share of the average kept in each step; 0 keeps none. max_norm: gradients are
    clipped to it. accumulate: batches per step. precision: "auto" (bfloat16 where the processor is fast at
    it), "bf16", "fp16" (with losses scaled up, so that small gradients survive) or "fp32". adam_bits: of the
    optimiser's two averages per weight; 8 needs bitsandbytes and a GPU.
    """

    steps: int
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    ema_decay: float = 0.995
    weight_decay: float = 1e-2
    max_norm: float = 1.0
    accumulate: int = 1
    precision: str = "auto"
    adam_bits: int = 32
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of step number `step` (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * min(warm, (self.steps - step) / max(1, self.steps - self.warmup_steps))


@dataclass(frozen=True)
class Progress:
    """What is known after a step.

    step: how many are finished (1-based). loss: that of the step's batches, the mean over all processes.
    grad_norm: of the whole gradient, before it was clipped. seconds: spent in steps so far, without what the
    caller does between them; a resumed run counts on.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float


class Run:
    """A network in training: the network, its moving average, the optimiser, and the steps done.

    The network must already be on the device that is to train it. Only those of its parameters that require
    gradients learn. Without an average (see `Recipe.ema_decay`), `ema` is the network itself.
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        self.model, self.recipe, self.step, self.seconds = model, recipe, 0, 0.0
        self.ema = copy.deepcopy(model).eval().requires_grad_(False) if recipe.ema_decay else model
        self.optimizer = _adamw([p for p in model.parameters() if p.requires_grad], recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def update_ema(self):
        """Move the average towards the network; faster in the first steps, when the average is still old."""
        if self.ema is self.model:
            return
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for average, current in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)

    def state(self) -> dict:
        """All that a checkpoint must hold: tensors and numbers only, and nothing that does not learn."""
        return {
            "model": self._without_frozen(self.model),
            "ema": self._without_frozen(self.ema),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def load(self, state: dict) -> None:
        """Take up the state of an earlier run with the same network."""
        frozen = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        self.model.load_state_dict(frozen | state["model"])
        self.ema.load_state_dict(frozen | state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _without_frozen(self, model):
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _adamw(parameters, recipe):
    """AdamW, in as many bits as the recipe says."""
    betas = (0.9, 0.99)  # not 0.999: a short run has no 1,000 steps to average over
    settings = {"lr": recipe.learning_rate, "betas": betas, "weight_decay": recipe.weight_decay}
    if recipe.adam_bits == 8:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **settings)
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(parameters, fused=fused, **settings)


Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


def train(run: Run, batch_at: Callable[[int], Tensor], loss: Loss, accelerator=None) -> Iterator[Progress]:
    """Train until `run.recipe.steps`, yielding a Progress after each step and EMA update.

    batch_at(n): batch number n, for n = 0, 1, ...; step s takes the numbers from s * accumulate on.
    loss(model, batch, generator): a scalar, the mean over the batch. accelerator: an
    `accelerate.Accelerator`; each of its processes has a share of every batch, and all go through the same
    steps. Raises FloatingPointError at a loss that is not finite, before it can spoil the network.
    """
    if accelerator and accelerator.device.type != run.device.type:
        raise ValueError(
            tr(
                "got a network on {device}, expected it on {expected}: move it there before Run().",
                device=run.device,
                expected=accelerator.device,
            )
        )
    model = accelerator.prepare(run.model) if accelerator else run.model
    run.model.train()
    while run.step < run.recipe.steps:
        started = time.perf_counter()
        rate = run.recipe.rate_at(run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.zero_grad()  # a step that was interrupted leaves some of its gradients
        value = _gradients(run, model, batch_at, loss, accelerator)
        run.scaler.unscale_(run.optimizer)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.max_norm)
        value, norm = _mean(torch.stack([value, norm]), accelerator)
        _require_finite(value, run)
        run.scaler.step(run.optimizer)  # left out if the scale was too large: fp16 then tries a smaller one
        run.scaler.update()
        run.optimizer.zero_grad()
        run.step += 1
        run.update_ema()
        run.seconds += time.perf_counter() - started
        yield Progress(run.step, value, rate, norm, run.seconds)


def _gradients(run, model, batch_at, loss, accelerator):
    """Add up the gradients of a step's batches; returns their mean loss, a tensor.

    Between processes gradients are averaged with the last batch alone.
    """
    recipe, total = run.recipe, torch.zeros((), device=run.device)
    first, rank = run.step * recipe.accumulate, accelerator.process_index if accelerator else 0
    for n in range(first, first + recipe.accumulate):
        waits = accelerator and n < first + recipe.accumulate - 1
        generator = torch.Generator(run.device).manual_seed(_seed(recipe.seed, n, rank))
        with accelerator.no_sync(model) if waits else nullcontext():
            with autocast(run.device, recipe.precision):
                value = loss(model, batch_at(n), generator) / recipe.accumulate
            run.scaler.scale(value).backward()
        total += value.detach()
    return total


def _mean(values, accelerator):
    """Tensor (N,) -> N floats, the mean over all processes: a step's only wait for the device."""
    return (accelerator.reduce(values, "mean") if accelerator else values).tolist()


def _require_finite(value, run):
    if not math.isfinite(value):
        raise FloatingPointError(
            tr(
                "got a loss of {value} in step {step}, expected a finite one: lower "
                "learning_rate={learning_rate:g}, or set precision='fp32'.",
                value=value,
                step=run.step + 1,
                learning_rate=run.recipe.learning_rate,
            )
        )


def _seed(*numbers):
    """One 63-bit seed from several numbers, so that neighbouring ones share nothing."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def autocast(device: torch.device, precision: str):
    """Context in which matrix products run in the chosen precision; see `Recipe.precision`."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    if precision not in PRECISIONS:
        raise ValueError(none_of("precision", precision, PRECISIONS))
    fast = "bf16" if profile.fast_bf16(device.type) else "fp32"
    half = halves[fast if precision == "auto" else precision]
    return torch.autocast(device.type, half) if half else nullcontext()


def diffusion_loss(alpha_bar: Tensor, prediction: str) -> Loss:
    """The plain denoising loss: noise x0 at uniform timesteps, mean squared error to `prediction`'s target.

    With "eps" this is Ho et al. 2020, eq. 14; the others weigh the noise levels differently.
    """

    def loss(model, x0, generator):
        t = torch.randint(0, len(alpha_bar), (len(x0),), generator=generator, device=x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        output = model(diffusion.add_noise(x0, eps, t, alpha_bar), t)
        wanted = diffusion.target(x0, eps, t, alpha_bar, prediction)
        return nn.functional.mse_loss(getattr(output, "sample", output).float(), wanted)

    return loss
