"""The guidance warp: what classifier-free guidance does to a 2-D set whose denoisers are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from course_utils import diffusion, guidance
from course_utils.explore.frame import (
    ALPHA_BAR,
    LAST,
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
from course_utils.show import COLOURS, Picture

MOONS = {"upper": 0, "lower": 1}
SCALES = (0, 0.5, 1, 1.5, 2, 3, 5, 8, 12)
STARTS, STEPS = 200, 30
SIZE = (9.8, 4.6)  # inches
REACH = 2.1


@dataclass(frozen=True)
class Cloud:
    """Where guided sampling ends. ends: (STARTS, 2). asked: share nearer to the asked moon than to the other.

    spread: root-mean-square distance of the ends from their mean, as a multiple of that of the asked moon.
    off: mean distance of an end to the nearest point of the asked moon.
    """

    ends: Tensor
    asked: float
    spread: float
    off: float


def _moons(moon):
    """All points, those of the asked moon, those of the other."""
    points = two_moons(120)
    return points, points[known("moon", moon, MOONS) :: 2], points[1 - MOONS[moon] :: 2]


def _denoisers(moon):
    points, own, _ = _moons(moon)
    return diffusion.ideal_denoiser(own, ALPHA_BAR), diffusion.ideal_denoiser(points, ALPHA_BAR)


@cache
def cloud(moon: str, scale: float, seed: int) -> Cloud:
    """Sample by DDIM with guidance from STARTS points; kept for each setting."""
    _, own, other = _moons(moon)
    start = torch.randn(STARTS, 2, generator=torch.Generator().manual_seed(seed)).double()
    denoise = guidance.classifier_free(*_denoisers(moon), scale)
    ends = diffusion.last(diffusion.ddim(denoise, start, ALPHA_BAR, diffusion.spaced_timesteps(STEPS)))
    near, far = (torch.cdist(ends, points).amin(1) for points in (own, other))
    spread = (_spread(ends) / _spread(own)).item()
    return Cloud(ends, (near < far).double().mean().item(), spread, near.mean().item())


def _spread(points):
    return (points - points.mean(0)).square().sum(1).mean().sqrt()


def _draw_guidance_warp(figure, scale, t, moon, seed):
    known("scale", scale, dict.fromkeys(SCALES))
    result = cloud(moon, scale, seed)
    grid = {"left": 0.05, "right": 0.99, "bottom": 0.09, "top": 0.86, "wspace": 0.16}
    arrows, ends = figure.subplots(1, 2, gridspec_kw=grid)
    turn = _arrows(arrows, within("t", t, 0, LAST), scale, moon)
    _points(ends, moon, 1.0)
    ends.plot(*result.ends.T, "o", color=COLOURS[1], ms=3.5, alpha=0.7, mew=0, label="samples")
    _frame(ends, f"{STARTS} samples at guidance scale {scale:g}\n{result.asked:.0%} nearer to the asked moon")
    return _words(result, scale, t, moon, turn)


def _arrows(ax, t, scale, moon):
    """Where each denoiser sees the clean point, from places on a grid; returns how far guidance turns it."""
    line = torch.linspace(-1.7, 1.7, 7, dtype=torch.float64)
    x, ts = torch.cartesian_prod(line, line), torch.full((49,), t)
    a = ALPHA_BAR[t].double()
    conditional, unconditional = (denoise(x, ts) for denoise in _denoisers(moon))
    guided = guidance.classifier_free(*_denoisers(moon), scale)(x, ts)
    _points(ax, moon, a.sqrt())
    for answer, colour, width in (
        (unconditional, "0.55", 0.004),
        (conditional, COLOURS[0], 0.006),
        (guided, COLOURS[1], 0.003),
    ):
        way = (a.sqrt() * answer - x) * 0.45
        ax.quiver(*x.T, *way.T, color=colour, width=width, angles="xy", scale_units="xy", scale=1)
    _frame(ax, f"t = {t}: towards x0_hat from 49 places\ngrey: no condition, blue: condition, thin: guided")
    return (guided - conditional).norm(dim=1).mean().item()


def _points(ax, moon, size):
    _, own, other = _moons(moon)
    ax.plot(*(size * other).T, ".", color="0.7", ms=5, mew=0)
    ax.plot(*(size * own).T, "D", color="black", ms=3, mew=0)


def _frame(ax, title):
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=range(-2, 3), yticks=range(-2, 3))
    ax.set_aspect("equal")
    ax.set_title(title, fontsize=9, loc="left")


def _words(result, scale, t, moon, turn):
    return (
        f"Two moons, the {moon} one (black) asked for, guidance scale {scale:g}. Left, at t = {t}: the "
        f"guided answer lies {turn:.2f} from the conditional one in the mean. Right: of {STARTS} samples "
        f"{result.asked:.0%} end nearer to the asked moon than to the other, {result.off:.2f} from its "
        f"nearest point in the mean; they spread {result.spread:.2f} times as far as that moon does."
    )


def draw_guidance_warp(scale: float = 3, t: int = 600, moon: str = "upper", seed: int = 0) -> Picture:
    """Conditional, unconditional and guided arrows, and where samples end, for a set that is known exactly.

    Against: "guidance samples the class more exactly". The conditional denoiser alone (scale 1) already draws
    the asked moon; more guidance pushes the samples away from the other moon, and so together.
    scale: one of SCALES. t: 0 to 999 on the cosine schedule, for the arrows. moon: "upper" or "lower". seed:
    of the starts.
    """
    return single(_draw_guidance_warp, SIZE, scale, t, moon, seed)


def guidance_warp():
    """`draw_guidance_warp` with controls for the scale, the noise level, the moon and the seed."""
    controls = {
        "scale": stops(tr("guidance scale"), [(f"{s:g}", s) for s in SCALES], 3),
        "t": slider(tr("noise level t of the arrows"), 0, LAST, 600),
        "moon": choice(tr("asked for"), list(MOONS), "upper"),
        "seed": slider(tr("seed"), 0, 9, 0),
    }
    return panel(draw_guidance_warp, controls)


def guidance_warp_sheet(moon: str = "upper", t: int = 600, seed: int = 0) -> Picture:
    """`draw_guidance_warp` without guidance, with some and with much."""
    settings = [{"scale": scale, "t": t, "moon": moon, "seed": seed} for scale in (1, 3, 8)]
    intro = "The guidance warp at three guidance scales."
    return contact_sheet(_draw_guidance_warp, SIZE, settings=settings, intro=intro)
