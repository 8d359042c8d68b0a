"""The score map: where the arrows of a noised 2-D set point."""

from __future__ import annotations

import math

import torch

from course_utils import diffusion
from course_utils.explore.frame import (
    ALPHA_BAR,
    LAST,
    choice,
    contact_sheet,
    known,
    panel,
    single,
    slider,
    within,
)
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture

SIZE = (4.9, 5.4)  # inches
REACH = 1.8  # the map shows -REACH to REACH
SIDE = 18  # arrows per side


def two_moons(count: int = 200, seed: int = 0) -> torch.Tensor:
    """Two interleaved half circles: (count, 2), float64."""
    angle = torch.rand(count, generator=torch.Generator().manual_seed(seed)).double() * math.pi
    upper = torch.arange(count) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], 1)


def spiral(count: int = 200, seed: int = 0) -> torch.Tensor:
    """An arm of two turns: (count, 2), float64."""
    turn = torch.rand(count, generator=torch.Generator().manual_seed(seed)).double().sqrt()
    angle = 4 * math.pi * turn
    return 1.5 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def five_points(count: int = 5, seed: int = 0) -> torch.Tensor:
    """A few points far apart: (count, 2), float64."""
    angle = torch.arange(count).double() * (2 * math.pi / count) + math.pi / 2
    return torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([1.2, 1.0])


SETS = {"two moons": two_moons, "spiral": spiral, "five points": five_points}


def score(x: torch.Tensor, t: int, data: torch.Tensor) -> torch.Tensor:
    """The exact score of the noised set, the gradient of log q(xt): x (B, 2) -> (B, 2).

    -(x - sqrt(alpha_bar) x0_hat) / (1 - alpha_bar), with x0_hat of the ideal denoiser (Tweedie's formula).
    """
    ts = torch.full((len(x),), t)
    a = diffusion.at(ALPHA_BAR, ts, x)
    return (a.sqrt() * diffusion.ideal_denoiser(data, ALPHA_BAR)(x, ts) - x) / (1 - a)


def _grid():
    line = torch.linspace(-REACH, REACH, SIDE, dtype=torch.float64) * (1 - 1 / SIDE)
    return torch.cartesian_prod(line, line)  # (SIDE * SIDE, 2)


def _away(arrows, x, members):
    """Degrees between each arrow and the way to the nearest of `members`: (B,)."""
    way = members[torch.cdist(x, members).argmin(1)] - x
    return torch.rad2deg(torch.cosine_similarity(arrows, way).clamp(-1, 1).acos())


def _draw_score_map(figure, t, dataset, seed):
    data = known("dataset", dataset, SETS)(seed=seed)
    a = ALPHA_BAR[within("t", t, 0, LAST)].double()
    x, members = _grid(), a.sqrt() * data
    arrows = score(x, t, data)
    away = _away(arrows, x, members)
    ax = figure.subplots(gridspec_kw={"left": 0.09, "right": 0.98, "bottom": 0.1, "top": 0.88})
    _cloud(ax, data, members, a, seed)
    _arrows(ax, x, arrows, away)
    _frame(ax, f"{dataset}, t = {t}\n√ᾱ = {a.sqrt():.3f}, √(1-ᾱ) = {(1 - a).sqrt():.3f}")
    return _words(t, dataset, a, arrows, away, len(data))


def _cloud(ax, data, members, a, seed):
    noisy = data.repeat(-(-300 // len(data)), 1)[:300]
    eps = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(seed)).double()
    noisy = a.sqrt() * noisy + (1 - a).sqrt() * eps
    ax.plot(*noisy.T, ".", color=COLOURS[5], ms=6, alpha=0.7, mew=0)
    ax.plot(*members.T, "D", color="black", ms=3, mew=0)


def _arrows(ax, x, arrows, away):
    """Arrows; those that turn more than 30 degrees from the nearest point in another colour, and thicker."""
    cell = 2 * REACH / SIDE
    sizes = arrows.norm(dim=1, keepdim=True)
    drawn = arrows / (sizes * sizes.max()).sqrt() * 1.3 * cell  # lengths: square roots of sizes
    for turned, colour, width in ((False, "0.35", 0.0035), (True, COLOURS[1], 0.008)):
        which = (away > 30) == turned
        ax.quiver(
            *x[which].T, *drawn[which].T, color=colour, width=width, angles="xy", scale_units="xy", scale=1,
        )  # fmt: skip


def _frame(ax, title):
    ax.set(
        xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=range(-1, 2), yticks=range(-1, 2)
    )
    ax.set_xlabel("thick: over 30° off the way to the nearest data point", fontsize=9)
    ax.set_title(title, fontsize=10, loc="left")


def _words(t, dataset, a, arrows, away, count):
    sizes = arrows.norm(dim=1)
    return (
        f"Score map of {dataset} ({count} points) at t = {t}, noise weight sqrt(1 - alpha_bar) = "
        f"{(1 - a).sqrt():.3f}: {SIDE * SIDE} arrows over the noised cloud, of median size "
        f"{sizes.median():.3g}, the largest {sizes.max():.3g} (drawn as square roots). The angle between an "
        f"arrow and the way to the nearest data point is {away.median():.0f} degrees in the median and "
        f"{away.max():.0f} at most; {100 * (away > 30).double().mean():.0f}% of the arrows, drawn thicker, "
        f"are over 30 degrees off."
    )


def draw_score_map(t: int = 400, dataset: str = "two moons", seed: int = 0) -> Picture:
    """Arrows of the exact score of a noised 2-D set, over the noised cloud.

    Against: "the model points to the nearest data point". It points to an average of the points that may be
    behind xt: to the middle of the set at much noise, to the nearest point only at little. t: 0 to 999 on the
    cosine schedule. dataset: a name in SETS. seed: of points and noise. Lengths are square roots of the
    score's size, scaled for each map anew; black: the data times sqrt(alpha_bar); thick and orange: over 30
    degrees from the way to the nearest data point.
    """
    return single(_draw_score_map, SIZE, t, dataset, seed)


def score_map():
    """`draw_score_map` with controls for the noise level, the set and the seed."""
    controls = {
        "t": slider(tr("noise level t"), 0, LAST, 400),
        "dataset": choice(tr("data set"), list(SETS), "two moons"),
        "seed": slider(tr("seed"), 0, 9, 0),
    }
    return panel(draw_score_map, controls)


def score_map_sheet(dataset: str = "two moons", seed: int = 0) -> Picture:
    """`draw_score_map` at three noise levels, side by side."""
    settings = [{"t": t, "dataset": dataset, "seed": seed} for t in (100, 400, 950)]
    intro = "Score maps at three noise levels."
    return contact_sheet(_draw_score_map, SIZE, settings=settings, intro=intro, columns=3)
