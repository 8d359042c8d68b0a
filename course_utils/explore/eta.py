"""The randomness knob: one start, several ends, from DDIM (eta = 0) to DDPM (eta = 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils import diffusion, scores
from course_utils.diffusion import Denoiser
from course_utils.explore.frame import contact_sheet, known, panel, single, slider, stops, tiles, within
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture, plot

ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIZE = (9.8, 2.5)  # inches


@dataclass(frozen=True)
class Fan:
    """Where samples end that begin alike. ends: eta -> (starts, ends, C, H, W), pictures in [-1, 1].

    spread: eta -> for each start the mean distance of two of its ends, (starts,). apart: that of two ends
    from different starts, at eta 0.
    """

    ends: dict[float, Tensor]
    spread: dict[float, list[float]]
    apart: float


def fan(
    denoise: Denoiser, starts: Tensor, alpha_bar: Tensor, ends: int = 6, steps: int = 20, seed: int = 0
) -> Fan:
    """Sample by DDIM at every eta of ETAS, `ends` times from each of `starts`, (N, C, H, W) pure noise.

    Takes (6 N + 4) * ends * steps calls of the network, for a picture each.
    """
    ts, generator = diffusion.spaced_timesteps(steps, len(alpha_bar)), torch.Generator().manual_seed(seed)
    start = starts.repeat_interleave(ends, 0)  # (N * ends, C, H, W): those of a start side by side
    found, spread = {}, {}
    for eta in ETAS:
        samples = diffusion.last(diffusion.ddim(denoise, start, alpha_bar, ts, eta, generator)).cpu()
        found[eta] = samples.reshape(len(starts), ends, *samples.shape[1:])
        spread[eta] = [scores.diversity(own) for own in found[eta]]
    others = torch.randn((4 * ends, *starts.shape[1:]), generator=generator).to(starts)
    apart = diffusion.last(diffusion.ddim(denoise, others, alpha_bar, ts)).cpu()
    return Fan(found, spread, scores.diversity(apart))


def _draw_randomness_knob(figure, fanned, eta, start):
    ends = known("eta", eta, fanned.ends)
    own = ends[within("start", start, 0, len(ends) - 1)]
    spread = {e: values[start] for e, values in fanned.spread.items()}
    left, right = figure.subplots(
        1,
        2,
        width_ratios=(2.2, 1),
        gridspec_kw={"left": 0.005, "right": 0.985, "top": 0.88, "bottom": 0.2, "wspace": 0.14},
    )
    tiles(left, own)
    left.set_title(f"{len(own)} ends of one start at eta = {eta:g}", fontsize=10, loc="left")
    plot(right, {"one start": (list(spread), list(spread.values()))}, "eta", "spread of the ends")
    right.axhline(fanned.apart, color="0.4", linewidth=1, linestyle="--")
    right.text(1, fanned.apart * 1.03, "different starts", ha="right", va="bottom", fontsize=8, color="0.3")
    right.plot([eta], [spread[eta]], "o", color=COLOURS[0], ms=9, mec="black")
    right.set(ylim=(-0.03, 1.35 * max(fanned.apart, *spread.values())), xticks=ETAS)
    return (
        f"{len(own)} ends of start {start} at eta = {eta:g}: the mean distance of two of them is "
        f"{spread[eta]:.2f}. Over eta from 0 to 1 it goes {', '.join(f'{s:.2f}' for s in spread.values())}; "
        f"of ends from different starts it is {fanned.apart:.2f}."
    )


def draw_randomness_knob(fanned: Fan, eta: float = 0.0, start: int = 0) -> Picture:
    """Several samples from one and the same noise at one eta, and how far apart they end at each.

    Against: "the noise at the start decides the picture". It does so for DDIM alone; the noise that DDPM adds
    on the way makes it forget where it began. fanned: from `fan`. eta: one of ETAS. start: which one.
    """
    return single(_draw_randomness_knob, SIZE, fanned, eta, start)


def randomness_knob(fanned: Fan):
    """`draw_randomness_knob` with controls for eta and the start."""
    controls = {
        "eta": stops(tr("eta"), [(f"{eta:g}", eta) for eta in ETAS], 0.0),
        "start": slider(tr("start"), 0, len(fanned.ends[0.0]) - 1, 0),
    }
    return panel(lambda **settings: draw_randomness_knob(fanned, **settings), controls)


def randomness_knob_sheet(fanned: Fan, start: int = 0) -> Picture:
    """`draw_randomness_knob` at three etas, one below the other."""
    settings = [{"eta": eta, "start": start} for eta in (0.0, 0.4, 1.0)]
    intro = "The randomness knob at three etas."
    return contact_sheet(_draw_randomness_knob, SIZE, fanned, settings=settings, intro=intro)
