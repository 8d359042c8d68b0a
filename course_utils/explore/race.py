"""The step-budget race: what a sampler makes of few steps, measured exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from course_utils import diffusion
from course_utils.explore.frame import (
    ALPHA_BAR,
    choice,
    contact_sheet,
    known,
    panel,
    single,
    slider,
    stops,
    within,
)
from course_utils.explore.score import two_moons
from course_utils.messages import tr
from course_utils.show import COLOURS, LINES, Picture

STEPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
FINE = 512
SAMPLERS = ("ddim", "euler", "dpm_solver", "ddpm")
TEAMS = (SAMPLERS, *((SAMPLERS[0], other) for other in SAMPLERS[1:]))
STYLE = {name: (COLOURS[i], LINES[i], "osD^"[i]) for i, name in enumerate(SAMPLERS)}
X = [math.log2(n) for n in STEPS]  # log axes by hand: their ticks would take half of the time of a redraw
STARTS, SEEDS = 384, 3
SIZE = (10.4, 3.5)  # inches


@dataclass(frozen=True)
class Race:
    """Where each sampler ends, and how far off that is.

    ends: (sampler, steps) -> (STARTS, 2). error: the same -> mean distance to the end of the fine solution
    from the same start (deterministic samplers only). energy: the same -> energy distance to the data.
    chance: the energy distance that STARTS members drawn at random have on average: as good as it gets.
    """

    data: Tensor
    ends: dict
    error: dict
    energy: dict
    chance: float


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| over all pairs of two sets, (N, D) and (M, D).

    It is 0 only if both are distributed alike (Székely & Rizzo 2013, "Energy statistics").
    """
    between, within_x, within_y = (torch.cdist(a, b).mean() for a, b in ((x, y), (x, x), (y, y)))
    return (2 * between - within_x - within_y).item()


@cache
def race(seed: int) -> Race:
    """Run every sampler with every number of STEPS from the same STARTS points; kept for each seed."""
    data = two_moons(120)
    denoise = diffusion.ideal_denoiser(data, ALPHA_BAR)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(STARTS, 2, generator=generator).double()
    fine = diffusion.last(diffusion.dpm_solver(denoise, start, ALPHA_BAR, diffusion.spaced_timesteps(FINE)))
    ends = {(name, n): _end(name, n, denoise, start, generator) for name in SAMPLERS for n in STEPS}
    error = {key: (end - fine).norm(dim=1).mean().item() for key, end in ends.items() if key[0] != "ddpm"}
    energy = {key: energy_distance(end, data) for key, end in ends.items()}
    return Race(data, ends, error, energy, torch.cdist(data, data).mean().item() / STARTS)


def _end(name, n, denoise, start, generator):
    extra = {"generator": generator} if name == "ddpm" else {}
    steps = getattr(diffusion, name)(denoise, start, ALPHA_BAR, diffusion.spaced_timesteps(n), **extra)
    return diffusion.last(steps)


def _draw_step_budget_race(figure, steps, samplers, seed):
    known("steps", steps, dict.fromkeys(STEPS))
    for name in samplers:
        known("sampler", name, STYLE)
    result = race(within("seed", seed, 0, SEEDS - 1))
    grid = {"left": 0.065, "right": 0.995, "bottom": 0.15, "top": 0.85, "wspace": 0.24}
    error, energy, ends = figure.subplots(1, 3, gridspec_kw=grid, width_ratios=(1, 1, 1.4))
    _curves(error, result.error, samplers, steps, "distance to the fine solution\n(same start, mean)")
    _curves(energy, result.energy, samplers, steps, "energy distance\nof the end cloud to the data")
    energy.axhline(math.log10(result.chance), color="0.4", linewidth=1)
    energy.text(1, math.log10(result.chance) - 0.03, "random draw", va="top", fontsize=8, color="0.3")
    error.set_ylim(-2.3, 0)
    energy.set_ylim(-3.2, -0.5)
    energy.legend(loc="upper right", framealpha=1, edgecolor="none", fontsize=8)
    _ends(ends, result, samplers, steps)
    return _words(result, steps, samplers)


def _curves(ax, values, samplers, steps, title):
    for name in (name for name in samplers if (name, 2) in values):
        colour, line, marker = STYLE[name]
        big = {"ms": 8, "mfc": "none"} if name == "ddim" else {"ms": 4}  # so that euler shows inside of ddim
        y = [math.log10(values[name, n]) for n in STEPS]
        ax.plot(X, y, line, color=colour, marker=marker, label=name, **big)
    ax.axvline(math.log2(steps), color="black", linewidth=1, linestyle=":")
    ax.set(xlabel="steps", xticks=range(1, 7), xticklabels=(2, 4, 8, 16, 32, 64))
    ax.set(yticks=(-3, -2, -1, 0), yticklabels=("0.001", "0.01", "0.1", "1"))
    ax.set_title(title, fontsize=10, loc="left")
    ax.grid(alpha=0.3)


def _ends(ax, result, samplers, steps):
    """The end clouds in a square of two by two, each over the data."""
    for i, name in enumerate(samplers):
        offset = torch.tensor([3.3 * (i % 2), -2.5 * (i // 2)])
        ax.plot(*(result.data + offset).T, ".", color="0.75", ms=4)
        ax.plot(*(result.ends[name, steps] + offset).T, STYLE[name][2], color=STYLE[name][0], ms=2.5, mew=0)
        ax.text(*(offset + torch.tensor([0.0, 0.98])), name, ha="center", fontsize=9)
    ax.set(xlim=(-1.6, 4.9), ylim=(-3.5, 1.5), aspect="equal", anchor="N")
    ax.set_title(f"ends after {steps} steps; data in grey", fontsize=10, loc="left")
    ax.set_axis_off()


def _words(result, steps, samplers):
    told = []
    for name in samplers:
        far = f"distance {result.error[name, steps]:.3f}, " if (name, steps) in result.error else ""
        told.append(f"{name} {far}energy distance {result.energy[name, steps]:.4f}")
    if {"ddim", "euler"} <= set(samplers):
        told.append("ddim and euler coincide: at equal timesteps they are the same step")
    if "ddpm" in samplers:
        told.append("ddpm draws fresh noise, so it has no solution to be far from")
    return (
        f"At {steps} steps on two moons with the ideal denoiser: {'; '.join(told)}. The distance is from the "
        f"end to that of {FINE} steps from the same start; the energy distance compares the cloud with "
        f"the data, and random draws of the data have {result.chance:.4f} on average; "
        f"both vary from seed to seed."
    )


def draw_step_budget_race(steps: int = 8, samplers: tuple[str, ...] = SAMPLERS, seed: int = 0) -> Picture:
    """Samplers against their number of steps: error along the way, likeness of the cloud, and the ends.

    Against: "good pictures need a thousand steps" and "all samplers are alike". The denoiser is the ideal
    one of 120 points on two moons, so every error is the sampler's own. ddim and euler coincide at equal
    timesteps. steps: one of STEPS. samplers: names in SAMPLERS. seed: 0 to 2, of the starts; the first
    drawing with a seed runs its race, in about half a second.
    """
    return single(_draw_step_budget_race, SIZE, steps, tuple(samplers), seed)


def _team(names):
    if names == SAMPLERS:
        return tr("all four")
    return tr("{first} and {second}", first=names[0], second=names[1])


def step_budget_race():
    """`draw_step_budget_race` with controls for steps, samplers and seed; the races are run beforehand."""
    for seed in range(SEEDS):
        race(seed)
    controls = {
        "steps": stops(tr("number of steps"), STEPS, 8),
        "samplers": choice(tr("samplers"), [(_team(names), names) for names in TEAMS], SAMPLERS),
        "seed": slider(tr("seed of the starts"), 0, SEEDS - 1, 0),
    }
    return panel(draw_step_budget_race, controls)


def step_budget_race_sheet(seed: int = 0) -> Picture:
    """`draw_step_budget_race` at 4, 8 and 32 steps, one below the other."""
    settings = [{"steps": n, "samplers": SAMPLERS, "seed": seed} for n in (4, 8, 32)]
    intro = "The step-budget race at three budgets."
    return contact_sheet(_draw_step_budget_race, SIZE, settings=settings, intro=intro)
