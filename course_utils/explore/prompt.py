"""The prompt explorer: what a text-to-image pipeline draws, and what it makes of the words."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager

import ipywidgets
import torch

from course_utils import latent, messages, profile, scores
from course_utils.explore.frame import choice, contact_sheet, known, panel, single, slider, stops, tiles
from course_utils.messages import tr
from course_utils.show import Picture

SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "DDPM": "DDPMScheduler",
}
STEPS = (1, 2, 4, 8, 15, 25, 30)
SCALES = (1, 1.5, 2, 3, 5, 7.5, 10, 15)
PROMPT = "a drawing of a red fish on a beach"
PICTURES = 3
SIZE = (10.4, 2.6)  # inches


@contextmanager
def _scheduled(pipeline, scheduler):
    """The pipeline with another scheduler, for as long as the block lasts, and without a progress bar."""
    import diffusers

    kept, bar = pipeline.scheduler, getattr(pipeline, "_progress_bar_config", {})
    kind = getattr(diffusers, known("scheduler", scheduler, SCHEDULERS))
    pipeline.scheduler = kind.from_config(kept.config)
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield pipeline
    finally:
        pipeline.scheduler = kept
        pipeline.set_progress_bar_config(**bar)


def _draw_prompt_explorer(figure, pipeline, prompt, seed, steps, guidance, scheduler):
    seeds = range(seed, seed + PICTURES)
    with _scheduled(pipeline, scheduler):
        drawn = pipeline(
            [prompt] * PICTURES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(n) for n in seeds],
            output_type="pt",
        ).images
    x = drawn.float().cpu() * 2 - 1
    figure.suptitle(
        f"{_short(prompt)!r}, {_counted(steps)} of {scheduler}, guidance scale {guidance:g}",
        fontsize=10, x=0.01, y=0.99, ha="left",
    )  # fmt: skip
    grid = {"left": 0.01, "right": 0.99, "top": 0.87, "bottom": 0.02, "wspace": 0.04}
    left, right = figure.subplots(1, 2, width_ratios=(PICTURES, 1.9), gridspec_kw=grid)
    tiles(left, x, [f"seed {n}" for n in seeds])
    with messages.drawn():
        notes = latent.caveats(pipeline, prompt, guidance_scale=guidance, num_inference_steps=steps)
    read, pieces = _reading(pipeline.tokenizer, prompt)
    _write(right, [read, *notes, " · ".join(pieces)])
    words = (
        f"{PICTURES} pictures of the prompt {_short(prompt)!r} from the seeds {seed} to {seeds[-1]}, in "
        f"{_counted(steps)} of {scheduler} at guidance scale {guidance:g}; their diversity (mean distance of "
        f"two) is {scores.diversity(x):.3f}. {read}"
    )
    return " ".join([words, *notes])


def _counted(steps):
    return "1 step" if steps == 1 else f"{steps} steps"


def _short(prompt, most=60):
    return prompt if len(prompt) <= most else f"{prompt[:most]}..."


def _reading(tokenizer, prompt):
    """A sentence on what the text encoder reads, and the pieces of the prompt that it does read."""
    pieces, room = tokenizer.tokenize(prompt), tokenizer.model_max_length - 2
    count = f"{min(len(pieces), room)} of the prompt's {len(pieces)} tokens"
    read = f"The text encoder reads {count}; it has room for {room}."
    return read, [piece.replace("</w>", "") for piece in pieces[:room]]


def _write(ax, paragraphs, most_lines=13):
    ax.set_axis_off()
    lines = [line for words in paragraphs for line in (*textwrap.wrap(words, 50), "")]
    lines = lines if len(lines) <= most_lines else [*lines[:most_lines], "..."]
    ax.text(0, 0.97, "\n".join(lines).replace("$", r"\$"), va="top", fontsize=8, transform=ax.transAxes)


def draw_prompt_explorer(
    pipeline,
    prompt: str = PROMPT,
    seed: int = 0,
    steps: int = 25,
    guidance: float = 7.5,
    scheduler: str = "DDIM",
) -> Picture:
    """Three pictures of a prompt, from three seeds, with the pieces that the text encoder reads.

    Against: "it looks the words up". It knows no word that it was not trained with, draws something all the
    same, and what the words leave open the noise decides. pipeline: a StableDiffusionPipeline; it stays as it
    is. seed: of the first picture. guidance: 1 is off. scheduler: a name in SCHEDULERS. What the pipeline
    silently makes of the call stands beside the pictures: see `latent.caveats`.
    """
    return single(_draw_prompt_explorer, SIZE, pipeline, prompt, seed, steps, guidance, scheduler)


def _usual(prompt):
    """What the controls begin with."""
    most = profile.effort(mini=25, full=25)
    steps = max(n for n in STEPS if n <= most)
    return {"prompt": prompt, "seed": 0, "steps": steps, "guidance": 7.5, "scheduler": "DDIM"}


def prompt_explorer(pipeline, prompt: str = PROMPT):
    """`draw_prompt_explorer` with controls; a typed prompt is drawn when Enter is pressed."""
    usual, style = _usual(prompt), {"description_width": "initial"}
    wide = ipywidgets.Layout(width="640px", max_width="100%")
    typed = ipywidgets.Text(
        prompt, description=tr("prompt"), continuous_update=False, style=style, layout=wide
    )
    controls = {
        "prompt": typed,
        "seed": slider(tr("seed of the first picture"), 0, 99, usual["seed"]),
        "steps": stops(tr("steps"), STEPS, usual["steps"]),
        "guidance": stops(tr("guidance scale"), [(f"{s:g}", s) for s in SCALES], usual["guidance"]),
        "scheduler": choice(tr("scheduler"), list(SCHEDULERS), usual["scheduler"]),
    }
    for name in ("seed", "steps", "guidance"):  # drawing takes longer than a slider's way
        controls[name].continuous_update = False
    return panel(lambda **settings: draw_prompt_explorer(pipeline, **settings), controls)


def prompt_explorer_sheet(pipeline, prompt: str = PROMPT) -> Picture:
    """`draw_prompt_explorer` as it begins, without guidance, in one step, and with an empty prompt."""
    usual = _usual(prompt)
    settings = [usual, usual | {"guidance": 1}, usual | {"steps": 1}, usual | {"prompt": ""}]
    intro = "The prompt explorer at four settings."
    return contact_sheet(_draw_prompt_explorer, SIZE, pipeline, settings=settings, intro=intro)
