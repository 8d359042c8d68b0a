"""The folder that a run of training writes: checkpoints, a log, samples, a card.

What is written there is whole at every moment: made beside its place, then renamed.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.messages import tr
from course_utils.train import Progress, Run


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
                refused.append((path.name, reason))
                continue
            run.load(state)
            return [_passed_over(name, reason) for name, reason in refused]
        if refused:
            name, reason = refused[0]
            raise ValueError(
                tr(
                    "got {name}, which is damaged ({reason}), and no whole checkpoint in {folder}, "
                    "expected at least one: remove the damaged ones to begin again.",
                    name=name,
                    reason=reason,
                    folder=self.folder,
                )
            )
        return []


def _passed_over(name, reason):
    return tr(
        "got {name}, which is damaged ({reason}), and took the one before it.", name=name, reason=reason
    )


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
            tr(
                "got the output {folder}, which is a file, expected a folder: give another --output.",
                folder=folder,
            )
        )
    if not note.exists():
        if folder.exists() and any(file.name != f".{note.name}.tmp" for file in folder.iterdir()):
            raise ValueError(
                tr(
                    "got the output folder {folder}, which holds files but no run, expected an empty one: "
                    "give another --output.",
                    folder=folder,
                )
            )
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(note) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    differences = _differences(json.loads(note.read_text()), json.loads(json.dumps(settings)))
    if differences:
        raise ValueError(
            tr(
                "got the output folder {folder}, which holds a run with other settings ({differences}), "
                "expected an empty one or the same settings: give another --output, or those settings.",
                folder=folder,
                differences=differences,
            )
        )
    if not resume:
        raise ValueError(
            tr(
                "got the output folder {folder}, which already holds this run, expected an empty one: add "
                "--resume to go on with it, or give another --output.",
                folder=folder,
            )
        )


def _differences(there, here):
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(
        tr("{name} {there} there and {here} here", name=name, there=there.get(name), here=here.get(name))
        for name in names
    )


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
