"""One training loop: a generator that yields a record after each step.

What is random in step n (pictures, timesteps, noise) depends on the seed and n alone. So a checkpoint holds
only the networks, the optimiser and n, and a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils import diffusion, profile


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    steps: optimiser steps in all. learning_rate: the highest; reached after `warmup_steps`, then falling
    linearly to 0. ema_decay: share of the average kept in each step. max_norm: gradients are clipped to it.
    accumulate: batches per step. precision: "auto" (bfloat16 where the processor is fast at it), "bf16", "fp32".
    """

    steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    ema_decay: float = 0.995
    weight_decay: float = 1e-2
    max_norm: float = 1.0
    accumulate: int = 1
    precision: str = "auto"
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of step number `step` (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * min(warm, (self.steps - step) / max(1, self.steps - self.warmup_steps))


@dataclass(frozen=True)
class Progress:
    """What is known after a step: `step` counts finished ones (1-based); `loss` is that of the step's batches."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float


class Run:
    """A network in training: the network, its moving average, the optimiser, and the steps done."""

    def __init__(self, model: nn.Module, recipe: Recipe):
        self.model, self.recipe, self.step = model, recipe, 0
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )

    def update_ema(self):
        """Move the average towards the network; faster in the first steps, when the average is still old."""
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def state(self) -> dict:
        """Everything that a checkpoint must hold."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def load(self, state: dict) -> None:
        """Take up the state of an earlier run with the same network."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


def train(run: Run, batch_at: Callable[[int], Tensor], loss: Loss, accelerator=None) -> Iterator[Progress]:
    """Train until `run.recipe.steps`, yielding a Progress after each step and EMA update.

    batch_at(n): batch number n, for n = 0, 1, ... loss(model, batch, generator): a scalar, the mean over the batch.
    accelerator: an `accelerate.Accelerator`, for several processes; `run.model` is then wrapped for the steps.
    """
    recipe, device = run.recipe, next(run.model.parameters()).device
    model = accelerator.prepare(run.model) if accelerator else run.model
    backward = accelerator.backward if accelerator else torch.Tensor.backward
    rank = accelerator.process_index if accelerator else 0
    run.model.train()
    started = time.perf_counter()
    while run.step < recipe.steps:
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.rate_at(run.step)
        total = 0.0
        for n in range(run.step * recipe.accumulate, (run.step + 1) * recipe.accumulate):
            generator = torch.Generator(device).manual_seed(_seed(recipe.seed, n, rank))
            with autocast(device, recipe.precision):
                value = loss(model, batch_at(n), generator) / recipe.accumulate
            backward(value)
            total += value.item()
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), recipe.max_norm)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"got a loss of {total} in step {run.step + 1}, expected a finite one: lower learning_rate="
                f"{recipe.learning_rate:g}, or set precision='fp32'."
            )
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.step += 1
        run.update_ema()
        yield Progress(run.step, total, recipe.rate_at(run.step - 1), norm.item(), time.perf_counter() - started)


def _seed(*numbers):
    """One 63-bit seed from several numbers, so that neighbouring ones share nothing."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def autocast(device: torch.device, precision: str):
    """Context in which matrix products run in the chosen precision; see `Recipe.precision`."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"got precision={precision!r}, expected auto, bf16 or fp32.")
    fast = precision == "bf16" or (precision == "auto" and profile.fast_bf16(device.type))
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()


def diffusion_loss(alpha_bar: Tensor, prediction: str = "v") -> Loss:
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


def save_atomically(state: dict, path: str | Path) -> None:
    """`torch.save` to a temporary file beside `path`, then rename: `path` is whole at every moment."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
