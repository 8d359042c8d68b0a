"""The training-time slider: what a fine-tuned model drew at each snapshot, and its scores over the steps."""

from __future__ import annotations

from collections.abc import Mapping

from course_utils.explore.frame import contact_sheet, known, panel, single, stops, tiles
from course_utils.jury import Judged
from course_utils.messages import tr
from course_utils.show import Picture, plot

SIZE = (10.4, 2.9)  # inches
SHOWN = 6  # pictures in a row


def _draw_training_time(figure, judged, step):
    now = known("step", step, judged)
    grid = {"left": 0.01, "right": 0.89, "top": 0.82, "bottom": 0.17, "wspace": 0.12}
    pictures, curves = figure.subplots(1, 2, width_ratios=(1.55, 1), gridspec_kw=grid)
    rows = (now.named[:SHOWN], now.plain[:SHOWN])
    _rows(pictures, rows)
    shares = {name: [getattr(judged[s].scores, name) for s in judged] for name in vars(now.scores)}
    plot(
        curves,
        {name: (list(judged), values) for name, values in shares.items()},
        "step",
        "share",
        markers=True,
    )
    curves.axvline(step, color="0.4", linewidth=1)
    curves.set_ylim(-0.05, 1.15)
    found = ", ".join(f"{name} {share:.0%}" for name, share in vars(now.scores).items())
    figure.suptitle(f"after {step} steps: {found}", fontsize=10, x=0.01, y=0.98, ha="left")
    return (
        f"After {step} of {max(judged)} steps: of {len(now.named)} pictures asked for with the identifier, "
        f"{now.scores.subject:.0%} show the subject and {now.scores.context:.0%} the right place; without "
        f"it, {now.scores.prior:.0%} of the former accuracy is left, and {now.scores.leak:.0%} of the "
        "pictures for short prompts show the subject."
    )


def _rows(ax, rows):
    """Above the pictures with the identifier, below those without."""
    import torch

    tiles(ax, torch.cat(rows), [*["with"] * len(rows[0]), *["without"] * len(rows[1])], columns=len(rows[0]))


def draw_training_time(judged: Mapping[int, Judged], step: int) -> Picture:
    """Pictures of one snapshot, with and without the identifier, and the scores of all of them.

    Against: "longer training is better". The subject is learned early; from then on it is drawn uncalled, too
    (the leak), and the rest is forgotten.
    judged: step -> what the jury saw. step: one of them.
    """
    return single(_draw_training_time, SIZE, judged, step)


def training_time(judged: Mapping[int, Judged]):
    """`draw_training_time` with a slider for the step."""
    controls = {"step": stops(tr("after steps"), list(judged), max(judged))}
    return panel(lambda step: draw_training_time(judged, step), controls)


def training_time_sheet(judged: Mapping[int, Judged]) -> Picture:
    """`draw_training_time` at the first, a middle and the last step."""
    steps = list(judged)
    settings = [{"step": steps[i]} for i in sorted({0, len(steps) // 2, len(steps) - 1})]
    return contact_sheet(
        _draw_training_time, SIZE, judged, settings=settings, intro="Snapshots of one training."
    )
