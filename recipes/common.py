"""What the recipes share: drawn scenes kept on disk, a training that resumes, and the model card."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from course_utils import checkpoints, data, runs, train

RUNS = Path("runs")
PICTURES = 40_000  # of the training scenes
TRAIN_SEED, JUDGE_SEED, TEST_SEED = 0, 1001, 77  # no picture is in two of the sets


def scenes(count: int) -> data.Scenes:
    """The training scenes; drawn once and kept in runs/."""

    def draw():
        drawn = data.scenes(count, seed=TRAIN_SEED)
        return {name: getattr(drawn, name) for name in ("images", "labels", "captions", "masks", "depths")}

    return data.Scenes(source=f"{count} drawn scenes", **kept(f"scenes-{count}", draw))


def kept(name: str, make: Callable):
    """What `make()` gives, tensors and plain values; computed once and kept in runs/."""
    path = RUNS / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        runs.save_atomically(make(), path)
    return torch.load(path, weights_only=True)


def fit(
    name: str, model: nn.Module, recipe: train.Recipe, batch_at, loss: train.Loss, every: int = 200
) -> nn.Module:
    """Train with a progress bar, from where runs/`name` stands; returns the averaged network."""
    from tqdm import tqdm

    run, saved = train.Run(model, recipe), runs.Checkpoints(RUNS / name, keep=1)
    for sentence in saved.resume(run):
        print(sentence)
    with tqdm(total=recipe.steps, initial=run.step, desc=name, mininterval=2) as bar:
        for progress in train.train(run, batch_at, loss):
            bar.set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)
            bar.update()
            if progress.step % every == 0 or progress.step == recipe.steps:
                saved.save(run)
    return run.ema


def rows(n: int, batch_size: int, count: int) -> torch.Tensor:
    """Which of `count` pictures batch number n holds: (batch_size,), int64; drawn anew for every batch."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, count, (batch_size,), generator=generator)


def folder(name: str) -> Path:
    """Where the finished miniature `name` lies."""
    return checkpoints.MINIATURES / name


def publish(name: str, model, about: str, facts: Mapping[str, object], *more) -> None:
    """Save a pipeline or model in half precision, `more` (a processor, say) and a card; print its facts."""
    for title, value in facts.items():
        print(f"{title:<50}{value}")
    with runs.whole_folder(folder(name)) as place:
        for part in (model.to(dtype=torch.float16), *more):
            part.save_pretrained(place)
        _for_every_version(place)
        (place / "README.md").write_text(card(name, type(model).__name__, about, facts), encoding="utf-8")
    checkpoints.note_checksums()


def _for_every_version(place: Path) -> None:
    """Make a saved folder load alike with every version of Transformers that the course admits.

    Transformers 5 writes tokenisers in a form of its own, which 4.51 can't read, and names of processors that
    it doesn't know, and would load half-precision weights as such. Where a part was loaded from is nobody's
    business.
    """
    for config in (*place.rglob("config.json"), *place.rglob("model_index.json")):
        text = config.read_text().replace('"dtype": "float16"', '"dtype": "float32"')
        text = text.replace('ImageProcessorPil"', 'ImageProcessor"')
        config.write_text(re.sub(r' *"_name_or_path": ".*",\n', "", text))
    for old in place.rglob("tokenizer_config.json"):
        (old.parent / "tokenizer.json").unlink(missing_ok=True)
        for file in (RUNS / "tokenizer").iterdir():
            shutil.copy(file, old.parent)


def card(name: str, loader: str, about: str, facts: Mapping[str, object]) -> str:
    """The model card of a miniature."""
    rows = "\n".join(f"| {title} | {value} |" for title, value in facts.items())
    return f"""---
license: apache-2.0
tags: [diffusion-models-course]
---

# {name}

{about}

Trained by `python -m recipes` of the course, from nothing but its own drawings. Load it with
`{loader}.from_pretrained(...)`. It knows the words and things of those drawings, and no others.

| measured | |
|---|---|
{rows}
"""
