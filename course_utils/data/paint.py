"""Backgrounds and styles of the drawn scenes: how the parts of a subject become a picture."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from course_utils.data.shapes import PAINTS, Part
from course_utils.messages import tr

# colour -> (the subject's colour, the marks of its pattern); sRGB in 0..1
COLOURS = {
    "red": ((0.85, 0.13, 0.14), (1.00, 0.86, 0.72)),
    "orange": ((0.98, 0.54, 0.08), (0.45, 0.16, 0.04)),
    "yellow": ((0.99, 0.86, 0.16), (0.50, 0.30, 0.04)),
    "green": ((0.16, 0.60, 0.22), (0.87, 0.98, 0.70)),
    "blue": ((0.13, 0.35, 0.90), (0.80, 0.93, 1.00)),
    "purple": ((0.50, 0.18, 0.72), (0.95, 0.84, 1.00)),
    "pink": ((0.98, 0.48, 0.72), (0.52, 0.08, 0.30)),
    "white": ((0.96, 0.96, 0.95), (0.33, 0.36, 0.46)),
}
PATTERNS = ("plain", "spots", "stripes", "rings")
PERIOD = 0.33  # of stripes and rings: 10.5 of 64 pixels, so that eight-fold compression can carry them
SPOTS_APART = 0.40  # from centre to centre: further, since spots must be told apart in two directions


def require_drawable(count: int, size_px: int, smallest: int) -> None:
    """Raise ValueError if there is nothing to draw, or less than `smallest` pixels to draw it in."""
    if count < 1 or size_px < smallest:
        raise ValueError(
            tr(
                "got count={count} and size_px={size_px}, expected count >= 1 and size_px >= {smallest}: "
                "raise the one that is too small.",
                count=count,
                size_px=size_px,
                smallest=smallest,
            )
        )


def rgb(*values) -> ndarray:
    """A colour that broadcasts over a picture: (3, 1, 1)."""
    return np.array(values, dtype=np.float32)[:, None, None]


def over(picture: ndarray, alpha: ndarray, colour: ndarray) -> ndarray:
    """Paint `colour`, (3, 1, 1) or (3, H, W), over a picture where alpha, (H, W) in 0..1, says so."""
    return picture + alpha * (colour - picture)


def cover(distance: ndarray, px: float) -> ndarray:
    """How much of each pixel, `px` wide, lies inside: (H, W), 0..1."""
    return np.clip(np.float32(0.5) - distance / np.float32(px), 0, 1)


def marks(u: ndarray, v: ndarray, pattern: str, rng, px: float) -> ndarray:
    """Where the pattern has its second colour: (H, W), 0..1."""
    turn, shift = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5, 2).astype(np.float32) * np.float32(PERIOD)
    if pattern == "plain":
        return np.zeros_like(u)
    if pattern == "rings":
        return cover(_wave(np.hypot(u, v) + shift[0] * np.float32(0.6)), px)
    if pattern == "spots":  # they sit nearly alike on every part: where there is no order, none is learned
        turn, shift = turn * 0.2, shift * np.float32(0.15)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = c * u + s * v + shift[0], c * v - s * u + shift[1]
    return cover(_wave(u) if pattern == "stripes" else _spots(u, v), px)


def _spots(u, v):
    """Distance to discs in a hexagonal grid."""
    row = np.round(v / np.float32(SPOTS_APART * 0.87))
    across = u / np.float32(SPOTS_APART) + row * np.float32(0.5)
    across = (across - np.round(across)) * np.float32(SPOTS_APART)
    away = np.hypot(across, v - row * np.float32(SPOTS_APART * 0.87))
    return away - np.float32(SPOTS_APART * 0.3)


def _wave(x):
    """Distance to the bars of a grating with period PERIOD, a little narrower than the gaps."""
    return np.abs(x / np.float32(PERIOD) - np.round(x / np.float32(PERIOD))) * np.float32(
        PERIOD
    ) - np.float32(PERIOD * 0.23)


# Each background: (x, y, rng, px) -> (picture (3, H, W), ground (H, W) in 0..1, horizon)


def _ramp(y, top, bottom, start=-1.0, end=1.0):
    """A gradient from start to end of the vertical axis."""
    return over(rgb(*top), np.clip((y - np.float32(start)) / np.float32(end - start), 0, 1), rgb(*bottom))


def _hill(x, y, rng, level, height):
    """Signed distance to rolling ground, and its outline as a function of x."""
    phase, rate = rng.uniform(0, 6.3), rng.uniform(1.5, 3.0)
    return np.float32(level) + np.float32(height) * np.sin(x * np.float32(rate) + np.float32(phase)) - y


def _dots(x, y, rng, count, box, radius, px):
    """Small discs at random places of box = (x0, x1, y0, y1)."""
    places = zip(rng.uniform(box[0], box[1], count), rng.uniform(box[2], box[3], count), strict=True)
    return cover(
        np.minimum.reduce([np.hypot(x - np.float32(a), y - np.float32(b)) for a, b in places]) - radius, px
    )


def meadow(x, y, rng, px):
    """Grass and small flowers under a light sky."""
    horizon = rng.uniform(-0.15, 0.2)
    picture = _ramp(y, (0.60, 0.82, 0.96), (0.90, 0.96, 0.95), -1, horizon)
    ground = cover(_hill(x, y, rng, horizon, 0.08), px)
    picture = over(picture, ground, _ramp(y, (0.62, 0.80, 0.36), (0.30, 0.58, 0.22), horizon, 1))
    blossom = _dots(x, y, rng, 7, (-1, 1, horizon + 0.15, 1), 0.035, px)
    return over(picture, blossom, rgb(1.0, 0.96, 0.75)), ground, horizon


def beach(x, y, rng, px):
    """Sand, foam and a blue-green sea."""
    horizon, shore = rng.uniform(-0.45, -0.2), rng.uniform(0.1, 0.35)
    picture = _ramp(y, (0.74, 0.90, 0.98), (0.94, 0.97, 0.97), -1, horizon)
    sea = cover(horizon - y, px)
    picture = over(picture, sea, _ramp(y, (0.10, 0.52, 0.62), (0.42, 0.82, 0.80), horizon, shore))
    line = _hill(x, y, rng, shore, 0.06)
    picture = over(picture, cover(line - np.float32(0.06), px), rgb(1.0, 1.0, 0.98))
    sand = _ramp(y, (0.95, 0.84, 0.60), (0.86, 0.70, 0.44), shore, 1)
    return over(picture, cover(line, px), sand), sea, horizon


def night(x, y, rng, px):
    """Stars and a moon over dark hills."""
    horizon = rng.uniform(0.35, 0.6)
    picture = _ramp(y, (0.03, 0.04, 0.14), (0.14, 0.18, 0.40), -1, horizon)
    picture = over(picture, _dots(x, y, rng, 14, (-1, 1, -1, horizon), 0.022, px), rgb(1.0, 0.97, 0.85))
    side = rng.choice((-1, 1))
    moon = np.hypot(x - np.float32(side * 0.72), y - np.float32(rng.uniform(-0.8, -0.6))) - 0.15
    picture = over(picture, cover(moon, px), rgb(0.99, 0.95, 0.78))
    ground = cover(_hill(x, y, rng, horizon, 0.09), px)
    return (
        over(picture, ground, _ramp(y, (0.05, 0.10, 0.16), (0.02, 0.05, 0.08), horizon, 1)),
        ground,
        horizon,
    )


def snow(x, y, rng, px):
    """White hills and falling flakes."""
    horizon = rng.uniform(-0.2, 0.15)
    picture = _ramp(y, (0.58, 0.66, 0.76), (0.78, 0.83, 0.89), -1, horizon)
    back = cover(_hill(x, y, rng, horizon - 0.1, 0.12), px)
    picture = over(picture, back, rgb(0.84, 0.89, 0.95))
    ground = cover(_hill(x, y, rng, horizon + 0.1, 0.08), px)
    picture = over(picture, ground, _ramp(y, (0.97, 0.98, 1.0), (0.86, 0.90, 0.97), horizon, 1))
    flakes = _dots(x, y, rng, 16, (-1, 1, -1, 1), 0.03, px)
    return over(picture, flakes, rgb(1.0, 1.0, 1.0)), np.maximum(back, ground), horizon


def sunset(x, y, rng, px):
    """A low sun in a burning sky."""
    horizon = rng.uniform(0.3, 0.55)
    picture = _ramp(y, (0.46, 0.22, 0.48), (0.96, 0.42, 0.36), -1, 0)
    picture = over(picture, np.clip(y / np.float32(horizon), 0, 1), rgb(1.0, 0.78, 0.40))
    sun = np.hypot(x - np.float32(rng.uniform(-0.75, 0.75)), y - np.float32(horizon - 0.05)) - 0.26
    picture = over(picture, cover(sun, px), rgb(1.0, 0.95, 0.68))
    ground = cover(_hill(x, y, rng, horizon, 0.05), px)
    return (
        over(picture, ground, _ramp(y, (0.42, 0.18, 0.30), (0.20, 0.09, 0.20), horizon, 1)),
        ground,
        horizon,
    )


BACKGROUNDS = {f.__name__: f for f in (meadow, beach, night, snow, sunset)}


# Each style: (background (3, H, W), parts, colours (2, 3, 1, 1), pattern, rng, px) -> picture (3, H, W)


def _fill(part: Part, colours, pattern, rng, px):
    """The colour of a part, (3, 1, 1) or (3, H, W), and where it has marks, (H, W) or 0."""
    main, accent = colours
    if part.paint == "main":
        mark = marks(part.u, part.v, pattern, rng, px)
        return over(main, mark, accent), mark
    return (main * 0.72 if part.paint == "shade" else rgb(*PAINTS.get(part.paint, part.paint))), 0.0


def _whole(parts):
    """Signed distance to all parts together."""
    return np.minimum.reduce([part.distance for part in parts])


def flat(picture, parts, colours, pattern, rng, px):
    """Clear areas with a dark edge and a little shading."""
    picture = over(picture, cover(_whole(parts) - np.float32(0.035), px), colours[0] * 0.25)
    light = np.linspace(1.06, 0.90, picture.shape[1], dtype=np.float32)[:, None]
    for part in parts:
        fill, _ = _fill(part, colours, pattern, rng, px)
        picture = over(picture, cover(part.distance, px), fill * light)
    return picture


def sketch(picture, parts, colours, pattern, rng, px):
    """Pencil lines and thin washes of colour on paper."""
    paper, graphite = rgb(0.97, 0.95, 0.90), rgb(0.24, 0.23, 0.25)
    picture = paper + 0.42 * (picture - paper)
    for part in parts:
        fill, _ = _fill(part, colours, pattern, rng, px)
        picture = over(picture, cover(part.distance, px), paper + 0.72 * (fill - paper))
        line = np.abs(part.distance + np.float32(0.015)) - np.float32(0.026)
        picture = over(picture, cover(line, px) * np.float32(0.9), graphite)
    return picture


def neon(picture, parts, colours, pattern, rng, px):
    """Glowing tubes in the dark."""
    grey = picture.mean(0)
    picture = np.clip(grey + 1.5 * (picture - grey), 0, 1) * 0.34
    glow = np.clip(colours[0] * 1.1 + 0.12, 0, 1)
    halo = np.exp(-np.maximum(_whole(parts), 0) / np.float32(0.11)) * np.float32(0.6)
    picture = over(picture, halo, glow * 0.8)
    for part in parts:
        fill, mark = _fill(part, colours, pattern, rng, px)
        dark = np.clip(colours[0] * 0.34 + 0.02, 0, 1) if part.paint in ("main", "shade") else fill * 0.8
        if part.paint == "main":
            dark = over(dark, mark, np.clip(glow * 1.05, 0, 1))
        picture = over(picture, cover(part.distance, px), dark)
        if part.paint in ("main", "shade"):
            tube = np.abs(part.distance + np.float32(0.02)) - np.float32(0.03)
            picture = over(picture, cover(tube, px), glow)
    return picture


STYLES = {f.__name__: f for f in (flat, sketch, neon)}
