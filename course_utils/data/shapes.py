"""The subjects of the drawn scenes, built from signed distances: below 0 inside, in units of half a picture.

A noun is a function (x, y, rng) -> parts, in the order in which they are painted. x to the right and y
downwards, (size_px, size_px), about -1..1 in the subject's own upright pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray


@dataclass(frozen=True)
class Part:
    """One painted piece.

    distance: signed, (H, W). paint: "main" (the subject's colour and pattern), "shade" (its colour, darker,
    no pattern), a name of PAINTS, or a colour, three numbers in 0..1. u, v: coordinates for the pattern,
    (H, W), 0 at the piece's middle.
    """

    distance: ndarray
    paint: str | tuple[float, float, float]
    u: ndarray | None = None
    v: ndarray | None = None


PAINTS = {
    "ink": (0.13, 0.11, 0.14),
    "paper": (0.98, 0.97, 0.94),
    "cream": (0.96, 0.88, 0.72),
    "leaf": (0.30, 0.55, 0.20),
    "beak": (0.93, 0.62, 0.16),
    "seeds": (0.36, 0.22, 0.12),
}


def circle(x, y, cx, cy, radius):
    """Distance to a circle."""
    return np.hypot(x - cx, y - cy) - radius


def ellipse(x, y, cx, cy, a, b, angle=0.0):
    """About the distance to an ellipse with half-axes a (along `angle`) and b."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    return (np.hypot((c * dx + s * dy) / np.float32(a), (c * dy - s * dx) / np.float32(b)) - 1) * min(a, b)


def bar(x, y, start, end, r_start, r_end=None):
    """Distance to a round-ended bar between two points, with a radius at each."""
    (ax, ay), (bx, by) = start, end
    dx, dy = np.float32(bx - ax), np.float32(by - ay)
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
    radius = r_start + along * np.float32((r_start if r_end is None else r_end) - r_start)
    return np.hypot(x - ax - along * dx, y - ay - along * dy) - radius


def polygon(x, y, *corners):
    """About the distance to a convex polygon, its corners clockwise on the screen."""
    edges = []
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = np.hypot(bx - ax, by - ay)
        edges.append((x - ax) * np.float32((by - ay) / length) - (y - ay) * np.float32((bx - ax) / length))
    return np.maximum.reduce(edges)


def butterfly(x, y, rng):
    """Two pairs of wings, mirror images of each other."""
    u = np.abs(x)
    tilt, reach = rng.uniform(-0.75, -0.4), rng.uniform(0.40, 0.48)
    fore, hind = (reach * 0.98, -0.27), (rng.uniform(0.29, 0.35), rng.uniform(0.30, 0.38))
    wide, hind_tilt = rng.uniform(0.27, 0.34), rng.uniform(0.5, 1.0)
    wings = (
        ellipse(u, y, *hind, rng.uniform(0.32, 0.38), rng.uniform(0.24, 0.29), hind_tilt),
        ellipse(u, y, *fore, reach, wide, tilt),
    )
    if rng.random() < 0.4:  # swallowtail
        yield Part(bar(u, y, (hind[0], hind[1]), (hind[0] + 0.12, 0.92), 0.14, 0.03), "shade")
    for distance, middle in zip(wings, (hind, fore), strict=True):
        yield Part(distance, "main", u - np.float32(middle[0]), y - np.float32(middle[1]))
    yield Part(bar(u, y, (0.03, -0.3), (rng.uniform(0.15, 0.26), -0.82), 0.028), "ink")
    yield Part(bar(x, y, (0, -0.3), (0, 0.46), 0.095, 0.055), "ink")
    yield Part(circle(x, y, 0, -0.38, 0.11), "ink")


def flower(x, y, rng):
    """Petals around a middle, on a stem with a leaf or two."""
    cx, cy, radius = rng.uniform(-0.06, 0.06), rng.uniform(-0.34, -0.24), rng.uniform(0.52, 0.62)
    foot, leaf = rng.uniform(-0.15, 0.15), rng.choice((-1, 1))
    yield Part(bar(x, y, (cx, cy), (foot, 0.98), 0.05), "leaf")
    for side in (leaf, -leaf)[: int(rng.integers(1, 3))]:
        yield Part(ellipse(x, y, foot + side * 0.24, 0.66, 0.26, 0.10, -side * 0.6), "leaf")
    petals, depth, turn = int(rng.integers(5, 9)), rng.uniform(0.2, 0.42), rng.uniform(0, 6.3)
    u, v = x - np.float32(cx), y - np.float32(cy)
    lobes = np.abs(np.cos((np.arctan2(v, u) + np.float32(turn)) * np.float32(petals / 2)))
    yield Part((np.hypot(u, v) - radius * (1 - depth + depth * lobes)) * np.float32(0.85), "main", u, v)
    yield Part(circle(u, v, 0, 0, rng.uniform(0.13, 0.18)), "seeds")


def fish(x, y, rng):
    """A fish that looks to the left."""
    long, high, fork = rng.uniform(0.58, 0.68), rng.uniform(0.36, 0.48), rng.uniform(0.30, 0.44)
    yield Part(polygon(x, y, (0.38, 0.0), (0.95, -fork), (0.80, 0.0)), "shade")
    yield Part(polygon(x, y, (0.38, 0.0), (0.80, 0.0), (0.95, fork)), "shade")
    fin = rng.uniform(0.6, 0.82)
    yield Part(polygon(x, y, (-0.32, -high * 0.7), (0.22, -fin), (0.34, -high * 0.5)), "shade")
    if rng.random() < 0.6:
        yield Part(polygon(x, y, (-0.1, high * 0.7), (0.26, high * 0.6), (0.22, fin * 0.9)), "shade")
    yield Part(ellipse(x, y, -0.12, 0, long, high), "main", x + np.float32(0.05), y)
    yield Part(circle(x, y, -0.50, -0.10, 0.115), "paper")
    yield Part(circle(x, y, -0.52, -0.10, 0.06), "ink")


def bird(x, y, rng):
    """A bird that stands and looks to the left."""
    tilt, tail = rng.uniform(0.12, 0.4), rng.uniform(-0.15, 0.35)
    for foot in (-0.08, 0.16):
        yield Part(bar(x, y, (foot + 0.03, 0.4), (foot, 0.88), 0.035), "ink")
    yield Part(bar(x, y, (0.3, 0.1), (0.88, tail), 0.16, 0.09), "shade")
    beak = rng.uniform(0.2, 0.34)
    yield Part(polygon(x, y, (-0.58, -0.56), (-0.52, -0.34), (-0.62 - beak, -0.40)), "beak")
    head = circle(x, y, -0.38, -0.42, rng.uniform(0.25, 0.30))
    body = ellipse(x, y, 0.02, 0.08, rng.uniform(0.52, 0.58), rng.uniform(0.38, 0.46), tilt)
    yield Part(np.minimum(head, body), "main", x - np.float32(0.02), y - np.float32(0.08))
    yield Part(ellipse(x, y, 0.20, 0.06, 0.30, 0.13, rng.uniform(0.2, 0.6)), "shade")
    yield Part(circle(x, y, -0.44, -0.47, 0.075), "paper")
    yield Part(circle(x, y, -0.45, -0.47, 0.045), "ink")


def mushroom(x, y, rng):
    """A cap on a pale stalk."""
    wide, high, rim = rng.uniform(0.66, 0.80), rng.uniform(0.58, 0.82), rng.uniform(-0.02, 0.12)
    lean = rng.uniform(-0.08, 0.08)
    yield Part(bar(x, y, (0, rim), (lean, 0.82), rng.uniform(0.15, 0.19), rng.uniform(0.19, 0.26)), "cream")
    yield Part(ellipse(x, y, 0, rim, wide * 0.9, 0.12), "seeds")
    dome = np.maximum(ellipse(x, y, 0, rim, wide, high), y - np.float32(rim))
    yield Part(dome, "main", x, y - np.float32(rim - 0.42 * high))


def creature(x, y, rng):
    """A small monster: any ears, eyes and build."""
    u = np.abs(x)
    wide, high = rng.uniform(0.44, 0.58), rng.uniform(0.46, 0.60)
    yield from ears(u, y, rng)
    yield Part(ellipse(u, y, 0.24, 0.68, 0.19, 0.13), "shade")
    if rng.random() < 0.6:
        yield Part(bar(u, y, (wide * 0.8, 0.1), (wide + 0.22, rng.uniform(-0.2, 0.4)), 0.09), "shade")
    body = ellipse(x, y, 0, 0.12, wide, high)
    yield Part(body, "main", x, y - np.float32(0.22))
    yield from _face(x, u, y, int(rng.integers(1, 4)), rng.uniform(0.12, 0.16))


def ears(u, y, rng):
    """Horns, round or long ears, or feelers, at both sides: u is the distance from the middle."""
    kind = rng.choice(("horns", "round", "long", "feelers"))
    if kind == "horns":
        yield Part(polygon(u, y, (0.16, -0.36), (0.30, -0.86), (0.42, -0.26)), "cream")
    elif kind == "round":
        yield Part(circle(u, y, 0.36, -0.46, 0.21), "shade")
    elif kind == "long":
        yield Part(ellipse(u, y, 0.24, -0.62, 0.34, 0.12, -1.3), "shade")
    else:
        yield Part(bar(u, y, (0.12, -0.4), (0.26, -0.84), 0.035), "ink")
        yield Part(circle(u, y, 0.26, -0.84, 0.09), "shade")


def _face(x, u, y, eyes, size):
    """One, two or three eyes, and a mouth."""
    places = {1: ((x, 0.0, size * 1.5),), 2: ((u, 0.2, size),), 3: ((u, 0.28, size * 0.85), (x, 0, size))}
    for across, at, radius in places[eyes]:
        yield Part(circle(across, y, at, -0.14, radius), "paper")
        yield Part(circle(across, y, at, -0.12, radius * 0.5), "ink")
    yield Part(bar(u, y, (0.0, 0.21), (0.15, 0.15), 0.032), "ink")


NOUNS = {f.__name__: f for f in (butterfly, flower, fish, bird, mushroom, creature)}
