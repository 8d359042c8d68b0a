"""The film strip: a sampler's steps, xt and x0_hat side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from course_utils.diffusion import Step
from course_utils.explore.frame import panel, single, slider, tiles, within
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture, plot, strip

SIZE = (9.6, 2.9)  # inches


def _draw_film_strip(figure, trajectory, step, pictures, distances):
    t, xt, x0_hat = trajectory[within("step", step, 0, len(trajectory) - 1)]
    k = min(pictures, len(xt))
    left, right = figure.subplots(
        1,
        2,
        width_ratios=(max(1.0, 0.5 * k), 1.1),
        gridspec_kw={"left": 0.075, "right": 0.99, "top": 0.9, "bottom": 0.16},
    )
    tiles(left, torch.cat([xt[:k], x0_hat[:k]]), columns=k)
    middle = left.get_ylim()[0] / 4
    for name, y in (("xt", middle), ("x0_hat", 3 * middle)):
        left.annotate(name, (0, y), (-6, 0), textcoords="offset points", ha="right", va="center")
    left.set_title(f"step {step} of 0 to {len(trajectory) - 1}, t = {t}", fontsize=10)
    _distances(right, distances, step)
    return _words(trajectory, step, distances, k)


def _to_the_end(trajectory):
    """Root-mean-square distance of xt and of x0_hat to the result, step by step: name -> list."""
    end = trajectory[-1][2].float()
    rms = lambda x: (x.float() - end).square().mean().sqrt().item()  # noqa: E731
    return {"xt": [rms(x) for _, x, _ in trajectory], "x0_hat": [rms(x) for _, _, x in trajectory]}


def _distances(ax, distances, step):
    steps = list(range(len(distances["xt"])))
    plot(ax, {name: (steps, values) for name, values in distances.items()}, "step", "distance to the result")
    for i, values in enumerate(distances.values()):
        ax.plot([step], [values[step]], "os"[i], color=COLOURS[i], ms=8, mec="black")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=9)


def _words(trajectory, step, distances, k):
    near = distances["x0_hat"]
    halved = next(i for i, d in enumerate(near) if d <= near[0] / 2)
    t, contrast = trajectory[step][0], (trajectory[0][2].std() / trajectory[-1][2].std()).item()
    return (
        f"Step {step} of 0 to {len(near) - 1}, t = {t}, for {k} picture{'s' * (k > 1)}: xt above, x0_hat "
        f"below. To the result, xt still has a root-mean-square distance of {distances['xt'][step]:.3f} and "
        f"x0_hat of {near[step]:.3f} (pictures span -1 to 1). x0_hat starts {near[0]:.3f} away, with "
        f"{100 * contrast:.0f}% of the result's contrast; it has come half of the way by step "
        f"{halved}, at t = {trajectory[halved][0]}, when xt is still {distances['xt'][halved]:.3f} away."
    )


def _checked(trajectory):
    steps = list(trajectory)
    if not steps or len(steps[0]) != 3 or steps[0][1].ndim != 4:
        raise ValueError(
            tr(
                "got no trajectory of pictures, expected the (t, xt, x0_hat) of a sampler, xt (B, C, H, "
                "W): pass list(diffusion.ddim(...))."
            )
        )
    if not steps[-1][2].isfinite().all():
        raise ValueError(
            tr("got a result with nan or infinite values, expected finite ones: look at the network.")
        )
    return steps


def draw_film_strip(trajectory: Sequence[Step], step: int = 0, pictures: int = 4) -> Picture:
    """xt and x0_hat of one step of a sampler, and how far both are from the result at every step.

    Against: "the picture slowly fades in". x0_hat starts as a blurred average, and what it will be is decided
    early, while xt still looks like noise. trajectory: what a sampler of `diffusion` yields, (t, xt, x0_hat),
    with xt (B, C, H, W); shown cut to [-1, 1]. step: 0 to its length - 1. pictures: how many of B to show.
    """
    steps = _checked(trajectory)
    return single(_draw_film_strip, SIZE, steps, step, pictures, _to_the_end(steps))


def film_strip(trajectory: Sequence[Step], pictures: int = 4):
    """`draw_film_strip` with a control for the step."""
    steps = _checked(trajectory)
    distances = _to_the_end(steps)
    controls = {"step": slider(tr("step"), 0, len(steps) - 1, 0)}
    return panel(lambda step: single(_draw_film_strip, SIZE, steps, step, pictures, distances), controls)


def film_strip_sheet(trajectory: Sequence[Step], frames: int = 8, picture: int = 0) -> Picture:
    """One picture's way in two rows, xt above x0_hat, at about `frames` steps from the first to the last."""
    steps = _checked(trajectory)
    within("picture", picture, 0, len(steps[0][1]) - 1)
    shown = torch.linspace(0, len(steps) - 1, min(frames, len(steps))).round().int().tolist()
    columns = [
        (f"t = {steps[i][0]}", torch.stack([x[picture].float().cpu() for x in steps[i][1:]])) for i in shown
    ]
    near = _to_the_end([(t, x[picture : picture + 1], y[picture : picture + 1]) for t, x, y in steps])
    told = ", ".join(f"{near['x0_hat'][i]:.2f} at t = {steps[i][0]}" for i in shown)
    alt = (
        f"{len(shown)} of {len(steps)} steps of a sampler, in columns: xt above, x0_hat below. The "
        f"root-mean-square distance of x0_hat to the result is {told}."
    )
    return strip(columns, ("xt", "x0_hat"), alt=alt)
