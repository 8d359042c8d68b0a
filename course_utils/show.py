"""Pictures of pictures: grids, curves, film strips, animations.

Every function returns a `Picture`: a matplotlib figure, opaque white, that shows itself as the last line of a
cell and carries its own alt text. None touches pyplot, its settings, or what it was given.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from course_utils.data import to_uint8

# Okabe & Ito's palette, distinct for colour-blind readers; line styles and markers repeat it
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
DPI = 96


class Picture(Figure):
    """A figure, shown by Jupyter as a PNG with alt text. `alt` says what there is to see, with numbers."""

    def __init__(self, width: float, height: float, alt: str):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        self.alt = alt

    def png(self) -> bytes:
        """The figure as the bytes of a PNG file."""
        canvas, buffer = FigureCanvasAgg(self), io.BytesIO()
        canvas.draw()  # savefig would draw everything twice
        opaque = np.asarray(canvas.buffer_rgba())[..., :3]  # a tenth smaller than with an alpha channel
        Image.fromarray(np.ascontiguousarray(opaque)).save(buffer, "png", dpi=(DPI, DPI))
        return buffer.getvalue()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return _bundle(self.png(), self.alt)

    def __repr__(self):
        return self.alt


class Animation:
    """A moving picture (GIF), shown by Jupyter, with alt text."""

    def __init__(self, gif: bytes, alt: str):
        self.gif, self.alt = gif, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        return _bundle(
            self.gif, self.alt
        )  # as image/png: browsers look at the bytes, exporters drop image/gif

    def __repr__(self):
        return self.alt


def _bundle(data, alt):
    return {"image/png": data, "text/plain": alt}, {"image/png": {"alt": alt}}


def pixels(x: Tensor) -> np.ndarray:
    """(N, C, H, W), uint8 or float in [-1, 1] -> uint8 (N, H, W, 3)."""
    x = x if x.dtype == torch.uint8 else to_uint8(x)
    return x.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def mosaic(x: Tensor, columns: int = 8, gap_px: int = 2) -> np.ndarray:
    """Pictures (N, C, H, W) side by side, row by row, on white: uint8 (rows, columns, 3)."""
    tiles = pixels(x)
    n, h, w, _ = tiles.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap_px) - gap_px, columns * (w + gap_px) - gap_px, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (h + gap_px), (i % columns) * (w + gap_px)
        sheet[top : top + h, left : left + w] = tile
    return sheet


def grid(x: Tensor, title: str = "", *, columns: int = 8, alt: str | None = None) -> Picture:
    """Pictures (N, C, H, W), uint8 or float in [-1, 1], in rows of `columns`."""
    return rows({title: x}, columns=columns, alt=alt or f"{len(x)} pictures{': ' + title if title else ''}")


def rows(
    named: Mapping[str, Tensor], *, columns: int = 8, width: float = 8.0, alt: str | None = None
) -> Picture:
    """Several sets of pictures, one below the other, each under its name."""
    sheets = {name: mosaic(x, columns) for name, x in named.items()}
    heights = [
        sheet.shape[0] / sheet.shape[1] * width + (0.35 if name else 0.05) for name, sheet in sheets.items()
    ]
    figure = Picture(width, sum(heights), alt or "Pictures, one row each: " + "; ".join(named))
    axes = figure.subplots(len(sheets), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (name, sheet) in zip(axes, sheets.items(), strict=True):
        image(sheet, name, ax)
    return figure


def image(sheet: np.ndarray, title: str, ax) -> None:
    """One picture, (H, W, 3) or (H, W), without axes."""
    ax.imshow(sheet, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_axis_off()


def heated(x: Tensor, maps: Tensor) -> Tensor:
    """Maps (N, h, w) over pictures (N, C, H, W) in [-1, 1]: (N, 3, H, W) in [-1, 1].

    The pictures turn grey; each map is laid over its own from dark, where it is lowest, to bright.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    level = ((maps - low) / (high - low).clamp(min=1e-12))[:, None].float().cpu()
    level = torch.nn.functional.interpolate(level, x.shape[-2:], mode="bilinear")[:, 0]  # (N, H, W)
    colour = torch.from_numpy(colormaps["viridis"](level.numpy())[..., :3]).float() * 2 - 1  # (N, H, W, 3)
    return 0.6 * colour.permute(0, 3, 1, 2) + 0.4 * x.float().cpu().mean(1, keepdim=True)


def strip(
    columns: Sequence[tuple[str, Tensor]], names: Sequence[str], *, below: Sequence[str] = (), alt: str
) -> Picture:
    """A film strip: for each (label, pictures (R, C, H, W)) a column, and `names` for its R rows.

    below: a text under each column, such as its scores.
    """
    lines = max((text.count("\n") + 1 for text in below), default=0)
    figure = Picture(min(12.0, 1.15 * len(columns) + 0.9), 1.15 * len(names) + 0.35 + 0.17 * lines, alt)
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for j, (label, x) in enumerate(columns):
        for i, tile in enumerate(pixels(x)):
            axes[i, j].imshow(tile, interpolation="nearest")
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].spines[:].set_visible(False)
            if i == 0:
                axes[i, j].set_title(label, fontsize=9)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(name, fontsize=9)
    for ax, text in zip(axes[-1], below, strict=bool(below)):
        ax.set_xlabel(text, fontsize=8)
    return figure


def curves(
    lines: Mapping[str, tuple],
    x_label: str,
    y_label: str,
    *,
    alt: str,
    log_x=False,
    log_y=False,
    markers=False,
) -> Picture:
    """Curves name -> (x, y), with a legend; they differ in colour and in line style."""
    figure = Picture(7.0 if len(lines) < 4 else 9.0, 3.4, alt)
    plot(figure.subplots(), lines, x_label, y_label, log_x=log_x, log_y=log_y, markers=markers)
    return figure


def plot(
    ax, lines: Mapping[str, tuple], x_label: str, y_label: str, *, log_x=False, log_y=False, markers=False
):
    """The curves of `curves`, drawn into given axes; returns the axes."""
    for i, (name, (x, y)) in enumerate(lines.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        ax.plot(x, y, label=name, marker="osD^v"[i % 5] if markers else None, **style)
    ax.set(
        xlabel=x_label,
        ylabel=y_label,
        xscale="log" if log_x else "linear",
        yscale="log" if log_y else "linear",
    )
    ax.grid(alpha=0.3)
    if len(lines) > 3:
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    elif len(lines) > 1:
        ax.legend(frameon=False)
    return ax


def smooth(values: Sequence[float], window: int = 25) -> np.ndarray:
    """Running mean over at most `window` values up to each place: of the length of `values`."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    return (total[end] - total[start]) / (end - start)


def animation(frames: Sequence[Tensor], *, columns: int = 8, seconds: float = 4.0, scale: int = 3, alt: str):
    """An endless moving picture of frames, each (N, C, H, W); it rests on the last one."""
    pages = [Image.fromarray(mosaic(frame, columns)) for frame in frames]
    pages = [
        page.resize((page.width * scale, page.height * scale), Image.Resampling.NEAREST) for page in pages
    ]
    pace = [int(1000 * seconds / len(pages))] * (len(pages) - 1) + [2000]
    buffer = io.BytesIO()
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=pace, loop=0)
    return Animation(buffer.getvalue(), alt)
