"""Train the judges: classifiers of the course's drawings, whose features the Fréchet distances use. They see
only drawings, and none that a model or a notebook trains on. 10 minutes on 2 CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from course_utils import checkpoints, data, runs, scores
from course_utils.data import grammar, to_model
from course_utils.data.subjects import DOUBLES, SUBJECTS
from recipes.common import JUDGE_SEED

TEST_SEED = JUDGE_SEED + 1


@dataclass(frozen=True)
class Plan:
    """What a judge is trained on: `draw(count, seed=...)`, how much of it, how often; and what it is for."""

    draw: Callable[..., data.ImageSet]
    count: int
    epochs: int
    about: str
    size_px: int | None = None  # in which the judge looks at them; their own, if not given
    coarsest: float = 1.0  # what is judged is softer than a drawing: see `scores.train_judge`


def subjects(count: int, seed: int) -> data.ImageSet:
    """Half of them individuals, the rest none: their doubles, ordinary creatures, any scenes.

    Label "subject": the individual's place in SUBJECTS, or their number for none.
    """
    nobody, styles = len(SUBJECTS), ("flat", "flat", "sketch", "neon")
    plan = [(name, count // 6, i) for i, name in enumerate(SUBJECTS)]
    plan += [(name, count // 20, nobody) for name in DOUBLES]
    drawn = [grammar.draw_subject(name, n, seed=seed, style=styles) for name, n, _ in plan]
    creatures = count // 10
    rest = count - creatures - sum(n for _, n, _ in plan)
    for n, noun in ((creatures, {"noun": "creature"}), (rest, {})):
        plan.append((None, n, nobody))
        drawn.append(grammar.draw(n, seed=seed, combinations="any", **noun))
    images = torch.from_numpy(np.concatenate([each.images for each in drawn]))
    label = torch.cat([torch.full((n,), answer) for _, n, answer in plan])
    return data.ImageSet(images, f"{len(images)} drawings of individuals and others", {"subject": label})


PLANS = {
    "judge-butterflies": Plan(data.butterflies, 6000, 6, "drawn butterflies (32 x 32 pixels)"),
    "judge-scenes": Plan(
        lambda count, seed: data.scenes(count, seed=seed, combinations="any"),
        16_000,
        8,
        "drawn scenes (64 x 64 pixels)",
        size_px=32,
        coarsest=0.5,
    ),
    "judge-subjects": Plan(
        subjects,
        8000,
        6,
        "drawn individuals and others, among them the doubles of those (64 x 64 pixels)",
        size_px=32,
        coarsest=0.4,
    ),
}


def build() -> None:
    """Train all."""
    for name in PLANS:
        make(name)


def make(name: str) -> None:
    """Train one, print how much it reads right, and save it with its card."""
    plan = PLANS[name]
    drawings = plan.draw(plan.count, seed=JUDGE_SEED)
    judge = scores.train_judge(drawings, epochs=plan.epochs, size_px=plan.size_px, coarsest=plan.coarsest)
    test = plan.draw(1000, seed=TEST_SEED)
    accuracy = {k: scores.read(judge, to_model(test.images), k).right(v) for k, v in test.labels.items()}
    for question, share in accuracy.items():
        print(f"{question:<12}{share:.1%} of 1,000 new drawings read right")
    folder = checkpoints.MINIATURES / name
    scores.save_judge(judge, folder)
    with runs.whole_file(folder / "README.md") as file:
        file.write_text(_card(name, plan, accuracy), encoding="utf-8")
    checkpoints.note_checksums()


def _card(name, plan, accuracy):
    looks = f" It looks at them in {plan.size_px} x {plan.size_px} pixels." if plan.size_px else ""
    looks += " In training, half of them were blurred." if plan.coarsest < 1 else ""
    lines = "\n".join(f"| {question} | {share:.1%} |" for question, share in accuracy.items())
    return f"""# {name}

A convolutional classifier of the course's {plan.about}, made by
`python -m recipes judge` from {plan.count:,} drawings in {plan.epochs} epochs.{looks} It stands beside the
pictures that the models generate: it reads them, and its 64 features serve the Fréchet distance. It never
saw a generated picture, nor a drawing that a model or a notebook trains on.

| question | right on 1,000 new drawings |
|---|---|
{lines}

Licence: Apache-2.0.
"""
