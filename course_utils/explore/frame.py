"""The frame that the widgets share: controls above a picture above its alt text; and contact sheets."""

from __future__ import annotations

import asyncio
import gc
import html
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager

import ipywidgets
import torch
from torch import Tensor

from course_utils import diffusion, show
from course_utils.data import to_model
from course_utils.messages import none_of, tr

ALPHA_BAR = diffusion.cosine_alpha_bar()  # of all widgets with an exact denoiser, as in their notebooks
LAST = len(ALPHA_BAR) - 1


def panel(draw: Callable[..., show.Picture], controls: Mapping[str, ipywidgets.Widget]) -> ipywidgets.VBox:
    """Controls wired to a drawing: a box with the controls, the picture, and the picture's alt text.

    draw: called with the controls' values under their names; returns a Picture. controls: name of draw's
    argument -> widget with a `value`. Where draw raises, its message stands below the last good picture. It
    draws in the thread that made the panel, so never while a cell runs.
    """
    picture, text = ipywidgets.Image(format="png"), ipywidgets.HTML()
    picture.layout.max_width, picture.layout.align_self = "100%", "flex-start"  # never larger than it is
    drawn_last = []

    def redraw(_=None):
        settings = {name: control.value for name, control in controls.items()}
        if settings in drawn_last:
            return
        drawn_last[:] = [settings]
        with _garbage_later():
            try:
                drawn = draw(**settings)
                picture.value, text.value = drawn.png(), _line(drawn.alt)
            except Exception as error:
                reason = str(error) or type(error).__name__
                text.value = _line(tr("Cannot draw this: {reason}", reason=reason))
            drawn = None

    redraw_here = _in_this_thread(redraw)
    for control in controls.values():
        control.tooltip = control.description  # else ipywidgets 8 shows "null" where the mouse rests on it
        control.observe(redraw_here, "value")
    redraw()
    wrapping = ipywidgets.Layout(display="flex", flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.Box(list(controls.values()), layout=wrapping), picture, text])


def _in_this_thread(work):
    """`work`, done in the thread that runs now, whichever thread asks for it.

    JupyterLab lets widgets speak to a kernel in a thread beside that of the cells (a subshell). If they drew
    there, torch would start workers for a second thread, more than there are cores: twice the time.
    """
    try:
        loop, home = asyncio.get_running_loop(), threading.get_ident()
    except RuntimeError:  # not in a kernel
        return work
    return lambda asked: (
        work(asked) if threading.get_ident() == home else loop.call_soon_threadsafe(work, asked)
    )


@contextmanager
def _garbage_later():
    """Put Python's garbage collection off to the end of the block, and then collect only what is new.

    A figure is full of cycles; left alone, every few redraws wait 200 ms for a look at all objects there are.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if collecting:
            gc.enable()


# What ipywidgets leaves out for those who listen: names for a slider and the number beside it, the label of
# the slider's stop (it says its index), and an alt text. Runs after each drawing, when all parts are there.
SPOKEN = """<img hidden alt="" src="data:," onerror="setTimeout(() => {
    const panel = this.closest('.widget-vbox');
    panel?.querySelectorAll('.widget-slider').forEach(slider => {
        const [label, handle, number] =
            ['.widget-label', '[role=slider]', '.widget-readout'].map(part => slider.querySelector(part));
        handle?.setAttribute('aria-label', label.textContent);
        handle?.setAttribute('aria-valuetext', number.textContent);
        number.setAttribute('role', 'textbox');
        number.setAttribute('aria-label', label.textContent);
    });
    panel?.querySelector('img.widget-image')?.setAttribute('alt', 'the drawing that is described below');
}, 300)">"""


def _line(words):
    """A paragraph that screen readers read out when it changes: the first line of `words`."""
    line = html.escape(str(words).strip().partition("\n")[0])
    return f'<p role="status" style="line-height: 1.4">{line}</p>{SPOKEN}'


def slider(description: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    """A whole number from `low` to `high`, redrawn while it moves."""
    width = ipywidgets.Layout(width="420px", max_width="100%")
    style = {"description_width": "initial"}
    return ipywidgets.IntSlider(value, low, high, description=description, style=style, layout=width)


def choice(description: str, options: Sequence, value) -> ipywidgets.Dropdown:
    """One of several options, each a value or a pair (label, value)."""
    style = {"description_width": "initial"}
    return ipywidgets.Dropdown(options=options, value=value, description=description, style=style)


def stops(description: str, options: Sequence, value) -> ipywidgets.SelectionSlider:
    """A slider with unevenly spaced stops."""
    width = ipywidgets.Layout(width="420px", max_width="100%")
    style = {"description_width": "initial"}
    return ipywidgets.SelectionSlider(
        options=options, value=value, description=description, style=style, layout=width
    )


def single(draw_into: Callable[..., str], size: tuple[float, float], *args, **settings) -> show.Picture:
    """One drawing on a page of `size` inches; `draw_into(figure, ...)` draws it and returns its alt text."""
    figure = _page(*size)
    figure.alt = draw_into(figure, *args, **settings)
    return figure


def contact_sheet(
    draw_into: Callable[..., str],
    size: tuple[float, float],
    *args,
    settings: Sequence[dict],
    intro: str,
    columns=1,
) -> show.Picture:
    """The drawing at several settings, below each other or in `columns`; its alt text tells them in turn."""
    count = len(settings)
    rows = -(-count // columns)
    figure = _page(size[0] * columns, size[1] * rows)
    parts = figure.subfigures(rows, columns, squeeze=False).ravel()
    told = [draw_into(part, *args, **one) for part, one in zip(parts, settings, strict=False)]
    figure.alt = " ".join([intro, *(f"({i}) {words}" for i, words in enumerate(told, 1))])
    return figure


def _page(width, height):
    figure = show.Picture(width, height, "")
    figure.set_layout_engine("none")  # margins are given: working them out would double the time of a redraw
    return figure


def tiles(ax, pictures: Tensor, labels: Sequence[str] = (), columns: int | None = None) -> None:
    """Pictures (N, C, H, W) in [-1, 1] in rows of `columns` (or one row), under their labels, in one axes."""
    columns = columns or len(pictures)
    step = pictures.shape[-1] + max(2, pictures.shape[-1] // 8)
    tall = step + (pictures.shape[-1] // 6 if labels else 0)  # room for labels between the rows
    for i, (tile, label) in enumerate(
        zip(show.pixels(pictures), labels or [""] * len(pictures), strict=True)
    ):
        left, top = (i % columns) * step, (i // columns) * tall
        h, w, _ = tile.shape
        ax.imshow(tile, extent=(left, left + w, top + h, top), interpolation="nearest")
        if label:
            ax.text(left + w / 2, top - h / 50, label, ha="center", va="bottom", fontsize=9)
    rows = -(-len(pictures) // columns)
    ax.set(xlim=(0, columns * step - step + w), ylim=((rows - 1) * tall + h, 0))
    ax.set_axis_off()


def as_pictures(images) -> Tensor:
    """An ImageSet, or pictures (N, C, H, W) in uint8 or in [-1, 1] -> float32 in [-1, 1]."""
    images = getattr(images, "images", images)
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            tr(
                "got {came}, expected pictures as a tensor (N, C, H, W), at least one: pass a batch.",
                came=came,
            )
        )
    return to_model(images) if images.dtype == torch.uint8 else images.detach().float().cpu()


def within(name: str, value: int, low: int, high: int) -> int:
    """`value`, or a ValueError when it is not from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(
            tr("got {name}={value}, expected {low} to {high}.", name=name, value=value, low=low, high=high)
        )
    return value


def known(name: str, value, options):
    """`options[value]`, or a ValueError that lists what there is."""
    if value not in options:
        raise ValueError(none_of(name, value, map(repr, options)))
    return options[value]
