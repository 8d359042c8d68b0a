"""Individuals for the hackathon: creatures with a look that no caption of the scenes describes.

Like the nouns of `shapes`, each is a function (x, y, rng) -> parts; here only the pose varies with rng.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from course_utils.data.shapes import Part, bar, circle, creature, ellipse, polygon

TEAL, CORAL, LEMON = (0.06, 0.48, 0.50), (0.98, 0.50, 0.42), (1.00, 0.93, 0.45)
COAL, FLAME, ASH = (0.20, 0.19, 0.24), (0.99, 0.60, 0.10), (0.62, 0.60, 0.66)
LILAC, COCOA, MINT = (0.70, 0.62, 0.86), (0.40, 0.24, 0.16), (0.64, 0.93, 0.78)


def bubble(x, y, rng):
    """A teal pear with a coral belly, a lamp on its head and three eyes."""
    u, sway = np.abs(x), rng.uniform(-0.15, 0.15)
    yield Part(bar(x, y, (0, -0.4), (sway, -0.82), 0.035), "ink")
    yield Part(circle(x, y, sway, -0.84, 0.12), LEMON)
    yield Part(ellipse(u, y, 0.26, 0.72, 0.20, 0.11), CORAL)
    yield Part(np.minimum(circle(x, y, 0, -0.2, 0.36), ellipse(x, y, 0, 0.28, 0.54, 0.46)), TEAL)
    yield Part(ellipse(x, y, 0, 0.34, 0.34, 0.30), CORAL)
    for across, at, height in ((u, 0.21, -0.18), (x, 0.0, -0.36)):
        yield Part(circle(across, y, at, height, 0.11), "paper")
        yield Part(circle(across, y, at, height, 0.055), "ink")


def ember(x, y, rng):
    """A coal-black cone with bat ears, a flame-coloured zigzag and one wide eye."""
    u, ear = np.abs(x), rng.uniform(0.78, 0.9)
    yield Part(polygon(u, y, (0.12, -0.30), (0.56, -ear), (0.42, -0.02)), COAL)
    yield Part(polygon(u, y, (0.22, -0.34), (0.50, -ear + 0.16), (0.38, -0.14)), FLAME)
    body = polygon(x, y, (0.0, -0.66), (0.62, 0.72), (-0.62, 0.72)) - np.float32(0.12)
    yield Part(body, COAL)
    zigzag = np.abs(y - np.float32(0.42) - np.abs(np.abs(x) - np.float32(0.22)) * np.float32(0.8)) - 0.09
    yield Part(np.maximum(zigzag, body + np.float32(0.04)), FLAME)
    yield Part(circle(x, y, 0, -0.16, 0.24), ASH)
    yield Part(circle(x, y, 0, -0.14, 0.12), "ink")


def pebble(x, y, rng):
    """A wide lilac back with a cocoa cross, eyes on stalks and a curled mint tail."""
    lift = rng.uniform(-0.08, 0.08)
    yield Part(np.abs(circle(x, y, 0.66, 0.10 + lift, 0.20)) - np.float32(0.07), MINT)
    for foot in (-0.42, -0.08, 0.28):
        yield Part(bar(x, y, (foot, 0.4), (foot, 0.66), 0.09), COCOA)
    for stalk in (-0.58, -0.30):
        yield Part(bar(x, y, (stalk * 0.8, 0.0), (stalk, -0.56), 0.06), LILAC)
        yield Part(circle(x, y, stalk, -0.60, 0.14), "paper")
        yield Part(circle(x, y, stalk - 0.03, -0.60, 0.07), "ink")
    yield Part(ellipse(x, y, -0.05, 0.22, 0.62, 0.34), LILAC)
    cross = np.minimum(
        bar(x, y, (-0.14, 0.04), (0.22, 0.40), 0.07), bar(x, y, (0.22, 0.04), (-0.14, 0.40), 0.07)
    )
    yield Part(cross, COCOA)


def _double(main, shade):
    """An ordinary creature, of any build, in an individual's colours."""

    def draw(x, y, rng):
        for part in creature(x, y, rng):
            yield replace(part, paint={"main": main, "shade": shade}.get(part.paint, part.paint))

    return draw


SUBJECTS = {f.__name__: f for f in (bubble, ember, pebble)}
# whoever knows an individual does not take its double for it
DOUBLES = {
    "bubble's double": _double(TEAL, CORAL),
    "ember's double": _double(COAL, FLAME),
    "pebble's double": _double(LILAC, COCOA),
}
