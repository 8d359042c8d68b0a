"""The class explorer: samples of one class at a guidance scale, with what a judge reads in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from course_utils import scores
from course_utils.explore.frame import choice, contact_sheet, known, panel, single, slider, stops, tiles
from course_utils.explore.warp import SCALES
from course_utils.messages import tr
from course_utils.show import Picture

SIZE = (9.6, 1.7)  # inches

Sample = Callable[[int, float, int], Tensor]  # (label, scale, seed) -> pictures (N, C, H, W) in [-1, 1]


def _draw_class_explorer(figure, sample, judge, names, label, scale, seed):
    known("label", label, dict(enumerate(names)))
    pictures = sample(label, float(scale), seed)
    reading = scores.read(judge, pictures)
    asked = (reading.answer == label).float().mean().item()
    spread = scores.diversity(pictures)
    ax = figure.subplots(gridspec_kw={"left": 0.005, "right": 0.995, "bottom": 0.01, "top": 0.74})
    tiles(ax, pictures, [_read(names, int(answer)) for answer in reading.answer], columns=8)
    ax.set_title(
        f"asked for: {names[label]}, guidance scale {scale:g}: {asked:.0%} read so, diversity {spread:.2f}",
        fontsize=10,
        loc="left",
        pad=17,
    )
    return (
        f"{len(pictures)} samples of the class {names[label]!r} at guidance scale {scale:g}, seed {seed}: "
        f"the judge reads {asked:.0%} of them as asked; their diversity (mean distance of two samples) is "
        f"{spread:.2f}."
    )


def _read(names, answer):
    return names[answer] if answer < len(names) else "none"


def draw_class_explorer(
    sample: Sample, judge, names: Sequence[str], label: int = 0, scale: float = 1, seed: int = 0
) -> Picture:
    """Samples of a class with what the judge reads above each, the share that is right, and their diversity.

    Against: "a higher guidance scale is better". sample(label, scale, seed): pictures (N, C, H, W) in
    [-1, 1]. judge: a `scores.Judge` whose first question is the class. names: of the classes.
    """
    return single(_draw_class_explorer, SIZE, sample, judge, names, label, scale, seed)


def class_explorer(sample: Sample, judge, names: Sequence[str]):
    """`draw_class_explorer` with controls for the class, the guidance scale and the seed."""
    controls = {
        "label": choice(tr("class"), [(name, i) for i, name in enumerate(names)], 0),
        "scale": stops(tr("guidance scale"), [(f"{s:g}", s) for s in SCALES], 1),
        "seed": slider(tr("seed"), 0, 9, 0),
    }
    return panel(lambda **settings: draw_class_explorer(sample, judge, names, **settings), controls)


def class_explorer_sheet(
    sample: Sample, judge, names: Sequence[str], label: int = 0, seed: int = 0
) -> Picture:
    """`draw_class_explorer` at four guidance scales."""
    settings = [{"label": label, "scale": scale, "seed": seed} for scale in (0, 1, 3, 8)]
    intro = "One class at four guidance scales."
    return contact_sheet(_draw_class_explorer, SIZE, sample, judge, names, settings=settings, intro=intro)
