"""Train `sd-subject-lora`: adapters that teach `sd` one individual, for the teaser of notebook unit1/01.

Three minutes on 2 CPU cores; goes on where it was stopped.
"""

from __future__ import annotations

import os

import torch
from diffusers import StableDiffusionPipeline

from course_utils import checkpoints, dreambooth, jury, runs, train
from recipes import common

NAME, SUBJECT, WORDS = "sd-subject-lora", "ember", dreambooth.Words("creature")
STEPS, BATCH, RANK = 550, 4, 16
ABOUT = """Adapters (LoRA) that teach `sd` one individual, a red ball with a white, one-eyed head, under the
words "sks creature". Made by `python -m recipes teaser` of the course, from six of its own drawings. Load
them with `pipeline.load_lora_weights(...)` into the miniature `sd`, and into nothing else."""


def build() -> None:
    """Train them, save them with their card, and print how well the individual is known."""
    os.environ["COURSE_SCALE"] = "mini"
    base = checkpoints.load(StableDiffusionPipeline, "sd")
    learner = fit(base)
    judged = jury.drawn(base, SUBJECT, WORDS).judge(dreambooth.assemble(base, learner))
    facts = {
        "shows the individual, of 64 asked for": f"{judged.scores.subject:.1%}",
        "shows the place asked for": f"{judged.scores.context:.1%}",
        "accuracy kept without the identifier": f"{judged.scores.prior:.1%}",
        "shows it where it was not asked for": f"{judged.scores.leak:.1%}",
        "licence": "Apache-2.0",
    }
    for title, value in facts.items():
        print(f"{title:<50}{value}")
    with runs.whole_folder(common.folder(NAME)) as place:
        print(f"{dreambooth.save(learner, place) / 1e3:.0f} kB")
        (place / "README.md").write_text(card(facts), encoding="utf-8")
    checkpoints.note_checksums()


def fit(base, steps: int = STEPS) -> dreambooth.Learner:
    """The adapters, trained with prior preservation, from where runs/ stands."""
    torch.manual_seed(0)
    learner = dreambooth.learner(base, "lora", RANK)
    images = dreambooth.pictures(SUBJECT, dreambooth.size_px(base))
    batch_at = dreambooth.batches(*dreambooth.lesson(base, learner, images, WORDS), BATCH)
    recipe = train.Recipe(steps, dreambooth.rate("lora"), warmup_steps=10, ema_decay=0, precision="fp32")
    loss = dreambooth.loss(base.scheduler.alphas_cumprod, "v")
    return common.fit(NAME, learner, recipe, batch_at, loss, every=50)


def card(facts: dict[str, str]) -> str:
    """The README.md of the adapters."""
    rows = "\n".join(f"| {title} | {value} |" for title, value in facts.items())
    return f"# {NAME}\n\n{ABOUT}\n\n| measured | |\n|---|---|\n{rows}\n"
