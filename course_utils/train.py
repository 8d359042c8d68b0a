"""One training loop: a generator that yields a record after each step; and the folder that a run writes.

What is random in step n (pictures, timesteps, noise) depends on the seed and n alone. So a checkpoint holds
only the networks, the optimiser and n, and a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
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
    accumulate: batches per step. precision: "auto" (bfloat16 where the processor is fast at it), "bf16" or
    "fp32".
    """

    steps: int
    learning_rate: float = 3e-3
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

    The network must already be on the device that is to train it.
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        self.model, self.recipe, self.step, self.seconds = model, recipe, 0, 0.0
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),  # not 0.999: a short run has no 1,000 steps to average over
            weight_decay=recipe.weight_decay,
            fused=all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in parameters),
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def update_ema(self):
        """Move the average towards the network; faster in the first steps, when the average is still old."""
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        for average, current in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)

    def state(self) -> dict:
        """Everything that a checkpoint must hold: tensors and numbers only."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def load(self, state: dict) -> None:
        """Take up the state of an earlier run with the same network."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


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
            f"got a network on {run.device}, expected it on {accelerator.device}: move it there before Run()."
        )
    model = accelerator.prepare(run.model) if accelerator else run.model
    run.model.train()
    while run.step < run.recipe.steps:
        started = time.perf_counter()
        rate = run.recipe.rate_at(run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        value = _gradients(run, model, batch_at, loss, accelerator)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.max_norm)
        value, norm = _mean(torch.stack([value, norm]), accelerator)
        _require_finite(value, run)
        run.optimizer.step()
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
            value.backward()
        total += value.detach()
    return total


def _mean(values, accelerator):
    """Tensor (N,) -> N floats, the mean over all processes: a step's only wait for the device."""
    return (accelerator.reduce(values, "mean") if accelerator else values).tolist()


def _require_finite(value, run):
    if not math.isfinite(value):
        raise FloatingPointError(
            f"got a loss of {value} in step {run.step + 1}, expected a finite one: lower learning_rate="
            f"{run.recipe.learning_rate:g}, or set precision='fp32'."
        )


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


# The folder of a run. What is written there is whole at every moment: made beside its place, then renamed.


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside `path` to write; at the end it becomes `path`, after an error it goes."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to fill; at the end it becomes `path`, after an error it goes."""
    path = Path(path)
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # killed between the two renames below
        os.replace(old, path)
    for left_over in (temporary, old):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def save_atomically(state: dict, path: str | Path) -> None:
    """`torch.save` to a temporary file beside `path`, then rename: `path` is whole at every moment."""
    with whole_file(path) as temporary:
        torch.save(state, temporary)


class Checkpoints:
    """The states of one run in a folder, `step_000123.pt`: the newest `keep` of them stay."""

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def files(self) -> list[Path]:
        """Those that are there, the newest first."""
        return sorted(self.folder.glob("step_*.pt"), reverse=True)

    def save(self, run: Run) -> Path:
        """Save the run, then remove what is too old, and what is newer: that was found damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{run.step:06d}.pt"
        save_atomically(run.state(), path)
        older = [file for file in self.files() if file.name < path.name]
        kept = [path, *older[: self.keep - 1]]
        for file in self.files():
            if file not in kept:
                file.unlink()
        return path

    def resume(self, run: Run) -> list[str]:
        """Put the run where its newest whole checkpoint stands; without any, it stays at its beginning.

        Returns a sentence for each newer one that is damaged; raises ValueError if all are.
        """
        refused = []
        for path in self.files():
            try:
                # weights_only: tensors and numbers, no code, whoever made the file
                state = torch.load(path, map_location=run.device, weights_only=True)
            except PermissionError:
                raise  # not damaged, only out of reach
            except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0][:80]
                refused.append(f"got {path.name}, which is damaged ({reason})")
                continue
            run.load(state)
            return [f"{sentence}, and took the one before it." for sentence in refused]
        if refused:
            raise ValueError(
                f"{refused[0]}, and no whole checkpoint in {self.folder}, expected at least one: "
                "remove the damaged ones to begin again."
            )
        return []


class LossLog:
    """A file of JSON lines, one a step: {"step": 1, "loss": 0.9, "learning_rate": 0.0001}.

    Opening it cuts off what lies after `step`, which the resumed run is going to write again.
    """

    def __init__(self, path: str | Path, step: int = 0):
        path = Path(path)
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_step_until(line, step)]
            with whole_file(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def add(self, progress: Progress) -> None:
        """Write the line of a step; a run that is killed right after still has it."""
        numbers = {"step": progress.step, "loss": progress.loss, "learning_rate": progress.learning_rate}
        self.file.write(json.dumps(numbers) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk: before a checkpoint that relies on them."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _is_step_until(line, step):
    """False for a line that a crash cut in half, too."""
    try:
        return json.loads(line)["step"] <= step
    except ValueError:
        return False


def claim(folder: str | Path, settings: Mapping[str, object], resume: bool) -> None:
    """Make `folder` that of a run with these settings, noted in its run.json.

    It may be new or empty. With `resume` it may also hold a run, if that has the same settings. Anything
    else is a ValueError that says what is there.
    """
    folder, note = Path(folder), Path(folder) / "run.json"
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"got the output {folder}, which is a file, expected a folder: give another --output."
        )
    if not note.exists():
        if folder.exists() and any(file.name != f".{note.name}.tmp" for file in folder.iterdir()):
            raise ValueError(
                f"got the output folder {folder}, which holds files but no run, expected an empty one: "
                "give another --output."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(note) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    differences = _differences(json.loads(note.read_text()), json.loads(json.dumps(settings)))
    if differences:
        raise ValueError(
            f"got the output folder {folder}, which holds a run with other settings ({differences}), "
            "expected an empty one or the same settings: give another --output, or those settings."
        )
    if not resume:
        raise ValueError(
            f"got the output folder {folder}, which already holds this run, expected an empty one: "
            "add --resume to go on with it, or give another --output."
        )


def _differences(there, here):
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name)} there and {here.get(name)} here" for name in names)


def follow(
    steps: Iterator[Progress],
    run: Run,
    folder: str | Path,
    *,
    images_per_step: int,
    checkpoint_every: int,
    sample_every: int,
    draw: Callable[[nn.Module], Tensor],
) -> None:
    """Run a training's `steps` to their end and write what happens into the folder of the run.

    A progress bar; a line a step in loss.jsonl; the same for TensorBoard in logs/; pictures drawn from the
    average, `draw(run.ema)`, (N, C, H, W) in [-1, 1], in samples/; and checkpoints. For one process only.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    folder, begun, before = Path(folder), run.step, run.seconds
    checkpoints = Checkpoints(folder / "checkpoints")
    with (
        closing(LossLog(folder / "loss.jsonl", begun)) as log,
        closing(SummaryWriter(folder / "logs", purge_step=begun + 1)) as board,
        tqdm(total=run.recipe.steps, initial=begun, unit="step", mininterval=0.5) as bar,
    ):
        for progress in steps:
            done, at_end = progress.step, progress.step == run.recipe.steps
            speed = images_per_step * (done - begun) / (progress.seconds - before)
            log.add(progress)
            for name in ("loss", "learning_rate", "grad_norm"):
                board.add_scalar(name, getattr(progress, name), done)
            board.add_scalar("images_per_second", speed, done)
            bar.set_postfix_str(f"loss {progress.loss:.4f}, {speed:.1f} images/s", refresh=False)
            bar.update()
            if done % sample_every == 0 or at_end:
                _save_grid(draw(run.ema), folder / "samples" / f"step_{done:06d}.png", board, done)
            if done % checkpoint_every == 0 or at_end:
                log.sync()
                board.flush()
                checkpoints.save(run)


def _save_grid(x, path, board, step):
    from PIL import Image

    from course_utils import show

    sheet = show.mosaic(x)
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    board.add_image("samples", sheet, step, dataformats="HWC")


def read_losses(path: str | Path) -> dict[int, float]:
    """step -> loss, from a `LossLog`'s file."""
    rows = (json.loads(line) for line in Path(path).read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def model_card(title: str, about: str, facts: Mapping[str, object]) -> str:
    """The README.md of a saved pipeline: what it is, how to use it, and a table of facts."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [diffusers, unconditional-image-generation, diffusion-models-course]
---

# {title}

{about}

```python
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("folder or Hub id")
image = pipeline(batch_size=1).images[0]
```

| | |
|---|---|
{rows}
"""
