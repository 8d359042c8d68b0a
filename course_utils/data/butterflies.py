"""Drawn butterflies: bilateral wings with varied outline, colour, pattern and background.

Everything is computed from a seed: picture i of `draw(n, seed=s)` is the same for every n > i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from course_utils.data.paint import require_drawable

# name -> (wing colour, accent colour); sRGB in [0, 1]
COLOURS = {
    "orange": ((0.96, 0.52, 0.10), (1.00, 0.86, 0.45)),
    "blue": ((0.13, 0.38, 0.90), (0.55, 0.83, 1.00)),
    "yellow": ((0.98, 0.84, 0.20), (0.86, 0.40, 0.12)),
    "red": ((0.82, 0.13, 0.16), (1.00, 0.72, 0.45)),
    "purple": ((0.48, 0.20, 0.72), (0.93, 0.70, 1.00)),
    "teal": ((0.05, 0.60, 0.58), (0.75, 1.00, 0.86)),
    "pink": ((0.95, 0.42, 0.62), (1.00, 0.90, 0.84)),
    "white": ((0.95, 0.94, 0.88), (0.62, 0.66, 0.80)),
}
# name -> (colour at the top, colour at the bottom)
BACKGROUNDS = {
    "sky": ((0.55, 0.78, 0.96), (0.90, 0.96, 1.00)),
    "meadow": ((0.66, 0.83, 0.50), (0.25, 0.52, 0.24)),
    "dusk": ((0.30, 0.22, 0.42), (0.93, 0.60, 0.46)),
    "sand": ((0.97, 0.93, 0.83), (0.86, 0.76, 0.58)),
    "night": ((0.05, 0.07, 0.17), (0.12, 0.22, 0.34)),
}
PATTERNS = ("plain", "spots", "stripes", "eyes")
SHAPES = ("round", "pointed", "tailed")

_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Butterflies:
    """Drawn pictures and what was drawn.

    images: uint8, (N, 3, size_px, size_px), 0..255.
    attributes: name ("colour", "pattern", "background", "shape") -> int64, (N,), an index into
    COLOURS, PATTERNS, BACKGROUNDS or SHAPES.
    """

    images: np.ndarray
    attributes: dict[str, np.ndarray]


def draw(count: int, *, size_px: int = 32, seed: int = 0, start: int = 0) -> Butterflies:
    """Draw pictures number `start` to `start + count - 1` of the endless set with this seed."""
    require_drawable(count, size_px, 8)
    drawn = [_draw_one(np.random.default_rng((seed, i)), size_px) for i in range(start, start + count)]
    images = np.stack([image for image, _ in drawn])
    attributes = {name: np.array([chosen[name] for _, chosen in drawn]) for name in drawn[0][1]}
    return Butterflies(images, attributes)


def _draw_one(rng, size_px):
    chosen = {
        "colour": int(rng.integers(len(COLOURS))),
        "pattern": int(rng.integers(len(PATTERNS))),
        "background": int(rng.integers(len(BACKGROUNDS))),
        "shape": int(rng.integers(len(SHAPES))),
    }
    side = size_px * _SUPERSAMPLING
    x, y = _canvas(side)
    picture = _background(x, y, list(BACKGROUNDS.values())[chosen["background"]], rng)
    x, y = _pose(x, y, rng)
    wing, accent = _palette(chosen["colour"], rng)
    for alpha, colour in _wings(x, y, chosen, wing, accent, rng):
        picture = picture + alpha * (colour - picture)
    alpha = _body(x, y, 1.6 / size_px)
    picture = picture + alpha * (np.array([0.12, 0.09, 0.08])[:, None, None] - picture)
    picture = picture.reshape(3, size_px, _SUPERSAMPLING, size_px, _SUPERSAMPLING).mean((2, 4))
    return np.round(picture.clip(0, 1) * 255).astype(np.uint8), chosen


def _canvas(side):
    """x to the right and y downwards, both in (-1, 1): each (side, side), float32."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side) * 2 - 1
    return np.meshgrid(axis, axis)


def _pose(x, y, rng):
    """Shift, turn and scale the canvas; the butterfly then sits upright at the origin."""
    dx, dy = rng.uniform(-0.08, 0.08, 2)
    angle, scale = rng.normal(0, 0.16), rng.uniform(0.82, 1.0)
    c, s = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    x, y = x - np.float32(dx), y - np.float32(dy)
    return c * x + s * y, c * y - s * x


def _palette(colour, rng):
    """Wing and accent colour, each (3, 1, 1), slightly varied."""
    base, accent = np.array(list(COLOURS.values())[colour], dtype=np.float32)
    return tuple(
        np.clip(c + rng.normal(0, 0.03, 3).astype(np.float32), 0, 1)[:, None, None] for c in (base, accent)
    )


def _background(x, y, colours, rng):
    """A gradient from top to bottom, slightly slanted: (3, side, side)."""
    top, bottom = np.array(colours, dtype=np.float32)[:, :, None, None]
    slant, lift = rng.uniform(-0.25, 0.25), rng.uniform(-0.15, 0.15)
    return top + (bottom - top) * np.clip((y + slant * x + lift + 1) / 2, 0, 1).astype(np.float32)


def _wings(x, y, chosen, wing, accent, rng):
    """Hind wings, then fore wings: yields (alpha (side, side), colour (3, side, side))."""
    u = np.abs(x)  # both sides at once: the wings are mirror images
    shape, pattern = SHAPES[chosen["shape"]], PATTERNS[chosen["pattern"]]
    frequency, phase, border = rng.uniform(2.2, 3.2), rng.uniform(0, 1), rng.uniform(0.10, 0.20)
    fore_angle, hind_angle = rng.uniform(-0.85, -0.55), rng.uniform(0.62, 0.92)
    fore_length, hind_length = rng.uniform(0.92, 1.08), rng.uniform(0.70, 0.85)
    fore_width, hind_width = rng.uniform(0.34, 0.46), rng.uniform(0.36, 0.48)
    belly = {"round": 0.40, "pointed": 0.95, "tailed": 0.62}[shape]
    if shape == "tailed":
        yield _tail(u, y, hind_angle, hind_length), 0.55 * wing + 0 * x
    for angle, length, width, root in (
        (hind_angle, hind_length, hind_width, 0.10),
        (fore_angle, fore_length, fore_width, -0.06),
    ):
        along, across = _wing_frame(u, y, angle, length, root)
        half_width = _outline(along, width, belly if root < 0 else 0.45)
        edge = (half_width - np.abs(across)) * length  # about the distance to the outline
        alpha = np.clip(edge / 0.03 + 0.5, 0, 1)
        yield (
            alpha,
            _wing_colour(along, across, edge, pattern, frequency, phase, border, wing, accent),
        )


def _wing_frame(u, y, angle, length, root):
    """Coordinates along (0 at the body, 1 at the tip) and across the wing."""
    a, b = u - np.float32(0.02), y - np.float32(root)
    c, s = np.float32(np.cos(angle) / length), np.float32(np.sin(angle) / length)
    return c * a + s * b, c * b - s * a


def _outline(along, width, belly):
    """Half-width of a wing at `along`: narrow at the body, closed at the tip; a small `belly` is blunt."""
    inside = np.clip(along, 0, 1)
    rise, fall = np.float32(0.95), np.float32(belly)
    peak = rise / (rise + fall)
    norm = peak**rise * (1 - peak) ** fall
    shape = inside**rise * (1 - inside) ** fall / norm
    return np.where((along > 0) & (along < 1), width * shape, -0.05)


def _wing_colour(along, across, edge, pattern, frequency, phase, border, wing, accent):
    """Colour of a wing: (3, side, side)."""
    shade = 0.72 + 0.36 * np.clip(along, 0, 1)
    colour = wing * shade
    mark = _pattern(along, across, pattern, frequency, phase)
    colour = colour + mark * (accent - colour)
    dark = np.clip((border - np.minimum(edge, (1.02 - along) * 0.8)) / 0.05, 0, 1) * 0.85
    dark = dark * np.clip(along * 3, 0, 1)
    if pattern == "eyes":
        dark = np.maximum(dark, np.clip((0.085 - np.hypot(along - 0.66, across * 1.1)) / 0.03, 0, 1))
    return colour + dark * (0.22 * wing - colour)


def _pattern(along, across, pattern, frequency, phase):
    """How much accent colour each place gets: (side, side), 0..1."""
    if pattern == "plain":
        return 0.25 * np.clip(1 - np.abs(across) / 0.08, 0, 1)
    if pattern == "stripes":
        return np.clip(2.2 * np.cos(2 * np.pi * (frequency * along + phase)), 0, 1)
    if pattern == "eyes":
        return np.clip((0.19 - np.hypot(along - 0.66, across * 1.1)) / 0.04, 0, 1)
    spots = [np.hypot(along - a, across - b * 0.9) for a, b in ((0.42, 0.0), (0.66, 0.15), (0.68, -0.14))]
    return np.clip((0.095 - np.minimum.reduce(spots)) / 0.03, 0, 1)


def _tail(u, y, angle, length):
    """The thin end of a swallowtail's hind wing."""
    along, across = _wing_frame(u, y, angle + 0.36, length * 1.32, 0.10)
    thickness = 0.11 * np.clip(1.02 - along, 0, 1) ** 0.5
    return np.clip((thickness - np.abs(across)) / 0.03 + 0.5, 0, 1) * ((along > 0.4) & (along < 1.02))


def _body(x, y, hair):
    """Body and antennae: (side, side), 0..1; `hair` is the thinnest line that the size can show."""
    body = 1 - np.hypot(x / 0.070, (y - 0.06) / 0.40)
    head = 1 - np.hypot(x / 0.075, (y + 0.36) / 0.085)
    curve = 0.04 + 0.55 * np.clip(-y - 0.38, 0, 1)
    antenna = np.where((y < -0.38) & (y > -0.78), hair * 0.62 - np.abs(np.abs(x) - curve), -1)
    club = 0.05 - np.hypot(np.abs(x) - 0.26, y + 0.79)
    solid = np.clip(np.maximum(body, head) / 0.25 + 0.3, 0, 1)
    thin = np.clip(np.maximum(antenna, club) / 0.03 + 0.5, 0, 1)
    return np.maximum(solid, thin)
