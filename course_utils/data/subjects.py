"""Individuals for the hackathon: creatures with a look that no caption of the scenes describes.

Like the nouns of `shapes`, each is a function (x, y, rng) -> parts; here only the pose varies with rng. Their
colours and their large, plain pieces are those of the scenes, put together as in none of them: what the
miniature's VAE has never seen, or what is smaller than its eight-fold compression, would not come through it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from course_utils.data.shapes import Part, circle, creature, ears, ellipse

RED, BLUE, PINK = ((0.85, 0.13, 0.14), (0.13, 0.35, 0.90), (0.98, 0.48, 0.72))
WHITE = (0.96, 0.96, 0.95)


def _eyes(x, y, height, radius):
    yield Part(circle(x, y, 0, height, radius), "paper")
    yield Part(circle(x, y, 0, height + 0.02, radius * 0.5), "ink")


def bubble(x, y, rng):
    """White and round, with two eyes and blue feet, under a wide blue cap."""
    u, lean = np.abs(x), rng.uniform(-0.08, 0.08)
    yield Part(ellipse(u, y, 0.24, 0.74, 0.19, 0.13), BLUE)
    yield Part(ellipse(x, y, 0, 0.30, 0.46, 0.46), WHITE)
    cap = np.maximum(ellipse(x, y, lean, -0.14, 0.72, 0.70), y + np.float32(0.14))
    yield Part(cap, BLUE)
    yield from _eyes(u - np.float32(0.2), y, 0.14, 0.15)


def ember(x, y, rng):
    """A red ball with a smaller white one for its head, and in that one wide eye."""
    sway = rng.uniform(-0.1, 0.1)
    yield Part(circle(x, y, 0, 0.42, 0.46), RED)
    yield Part(circle(x, y, sway, -0.36, 0.38), WHITE)
    yield from _eyes(x, y, -0.36, 0.20)


def pebble(x, y, rng):
    """A long white body with one eye, between four pink wings."""
    u, tilt = np.abs(x), rng.uniform(-0.7, -0.5)
    yield Part(ellipse(u, y, 0.50, -0.26, 0.46, 0.30, tilt), PINK)
    yield Part(ellipse(u, y, 0.40, 0.36, 0.34, 0.26, 0.7), PINK)
    yield Part(ellipse(x, y, 0, 0.06, 0.30, 0.62), WHITE)
    yield from _eyes(x, y, -0.22, 0.20)


def _double(main, shade):
    """An ordinary creature, of any build, in an individual's colours."""

    def draw(x, y, rng):
        for part in creature(x, y, rng):
            yield replace(part, paint={"main": main, "shade": shade}.get(part.paint, part.paint))

    return draw


def _eared(individual):
    """An individual with the ears of its kind: not quite it."""

    def draw(x, y, rng):
        yield from individual(x, y, rng)
        yield from ears(np.abs(x), y, rng)

    return draw


SUBJECTS = {f.__name__: f for f in (bubble, ember, pebble)}
# whoever knows an individual does not take its double for it
DOUBLES = {
    "bubble's double": _double(WHITE, BLUE),
    "ember's double": _double(RED, WHITE),
    "pebble's double": _double(WHITE, PINK),
} | {f"{name} with ears": _eared(draw) for name, draw in SUBJECTS.items()}
