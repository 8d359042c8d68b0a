"""The figures of the comparisons, in the course's style: see `course_utils.show`."""

from __future__ import annotations

from collections.abc import Mapping

from course_utils.show import COLOURS, Picture


def bar_charts(panels: Mapping[str, Mapping[str, float]], label: str) -> Picture:
    """One chart for each title: name -> figure; the first, the course's own, is hatched."""
    rows = [len(figures) for figures in panels.values()]
    figure = Picture(8.0, 0.34 * sum(rows) + 0.75 * len(panels), described(panels, f"Bars of {label}"))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=rows)[:, 0]
    for ax, (title, figures) in zip(axes, panels.items(), strict=True):
        names, values = list(figures), list(figures.values())
        colours = [COLOURS[1 if i == 0 else 0] for i in range(len(names))]
        drawn = ax.barh(names, values, color=colours, hatch=["//"] + [""] * (len(names) - 1), ec="white")
        ax.bar_label(drawn, [_number(value) for value in values], padding=3, fontsize=9)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.set_title(title, fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(label)
    return figure


def described(panels: Mapping[str, Mapping[str, float]], label: str) -> str:
    """The alt text: every figure, in words."""
    texts = (
        f"{title}: {', '.join(f'{name} {_number(value)}' for name, value in figures.items())}"
        for title, figures in panels.items()
    )
    return f"{label}. {'; '.join(texts)}."


def _number(value):
    """Three digits, and more where there are more before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
