"""Captioned scenes: a subject with a colour and a pattern, a background, a style; with mask and depth.

Everything is computed from a seed: picture i of `draw(n, seed=s)` is the same for every n > i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from course_utils.data.paint import BACKGROUNDS, COLOURS, PATTERNS, STYLES, cover, require_drawable, rgb
from course_utils.data.shapes import NOUNS
from course_utils.data.subjects import DOUBLES, SUBJECTS
from course_utils.messages import none_of, tr, unknown

ATTRIBUTES = {
    "noun": tuple(NOUNS),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "background": tuple(BACKGROUNDS),
    "style": tuple(STYLES),
}
HELD_OUT_SHARE = 0.1  # of all combinations of noun, colour, pattern and background

# How captions name an attribute; the first wording is the one of `caption(..., rng=None)`
_PATTERN_BEFORE = {
    "plain": ("plain", "simple"),
    "spots": ("spotted", "dotted"),
    "stripes": ("striped", "stripy"),
    "rings": ("ringed",),
}
_PATTERN_AFTER = {
    "spots": ("with spots", "with dots"),
    "stripes": ("with stripes",),
    "rings": ("with rings", "with circles"),
}
_PLACE = {
    "meadow": ("in a meadow", "on green grass", "in the grass"),
    "beach": ("on a beach", "on the sand by the sea", "at the beach"),
    "night": ("at night", "under the stars", "in the night"),
    "snow": ("in the snow", "in winter", "on a snowy hill"),
    "sunset": ("at sunset", "in front of a sunset", "in the evening sun"),
}
_MEDIUM = {
    "flat": ("a drawing of", "a flat illustration of"),
    "sketch": ("a pencil sketch of", "a sketch of"),
    "neon": ("a neon sign of", "a glowing neon picture of"),
}
_ANY_MEDIUM = ("", "a picture of", "a photo of", "an image of")
# words that say nothing about the picture; "sks" is the rare word that DreamBooth gives a meaning
_FILLERS = ("beautiful", "lovely", "sks")


@dataclass(frozen=True)
class Drawn:
    """Drawn scenes and what was drawn.

    images: uint8, (N, 3, size_px, size_px). masks, depths: uint8, (N, 1, size_px, size_px): the subject's
    share of each pixel; 0 far away to 255 close. attributes: name -> int64, (N,), an index into ATTRIBUTES.
    captions: N sentences.
    """

    images: np.ndarray
    masks: np.ndarray
    depths: np.ndarray
    attributes: dict[str, np.ndarray]
    captions: tuple[str, ...]


@cache
def held_out() -> np.ndarray:
    """Which combinations no model trains on: bool, (nouns, colours, patterns, backgrounds)."""
    shape = [len(ATTRIBUTES[name]) for name in ("noun", "colour", "pattern", "background")]
    order = np.random.default_rng(2024).permutation(np.prod(shape))
    out = np.zeros(np.prod(shape), dtype=bool)
    out[order[: int(np.ceil(HELD_OUT_SHARE * len(out)))]] = True
    return out.reshape(shape)


def choose(rng, combinations: str = "seen", **fixed: str) -> dict[str, int]:
    """Draw one set of attributes: name -> index into ATTRIBUTES.

    combinations: "seen", "held out" or "any". fixed: attributes that are given, by name: noun="fish".
    """
    out = held_out()
    while True:
        chosen = {name: int(rng.integers(len(values))) for name, values in ATTRIBUTES.items()}
        chosen |= {name: ATTRIBUTES[name].index(value) for name, value in fixed.items()}
        held = out[tuple(chosen[name] for name in ("noun", "colour", "pattern", "background"))]
        if combinations == "any" or held == (combinations == "held out"):
            return chosen


def caption(chosen: dict[str, int], rng=None, leave_out: float = 0.0) -> str:
    """A sentence for a set of attributes; the wording varies with rng, and without one is the plainest.

    leave_out: probability with which each attribute but the noun goes unsaid, and of a word without meaning.
    """
    say = {name: ATTRIBUTES[name][index] for name, index in chosen.items()}

    def pick(wordings):
        return wordings[int(rng.integers(len(wordings)))] if rng is not None else wordings[0]

    said = {name: rng is None or rng.random() >= leave_out for name in say}
    before, after = "", ""
    if said["pattern"]:
        if rng is not None and say["pattern"] in _PATTERN_AFTER and rng.random() < 0.5:
            after = pick(_PATTERN_AFTER[say["pattern"]])
        else:
            before = pick(_PATTERN_BEFORE[say["pattern"]])
    filler = pick(_FILLERS) if rng is not None and rng.random() < leave_out else ""
    words = [filler, before, say["colour"] * said["colour"], say["noun"], after]
    subject = " ".join(word for word in words if word)
    article = "an" if subject[0] in "aeiou" else "a"
    medium = pick(_MEDIUM[say["style"]] if said["style"] else _ANY_MEDIUM)
    place = pick(_PLACE[say["background"]]) if said["background"] else ""
    return " ".join(word for word in (medium, article, subject, place) if word)


def place(background: str) -> str:
    """How captions name a background, in the plainest wording: "at night"."""
    return _PLACE[background][0]


def words() -> list[str]:
    """Every word that a caption may hold, and so that a text-to-image miniature knows, sorted."""
    tables = (_PATTERN_BEFORE, _PATTERN_AFTER, _PLACE, _MEDIUM)
    wordings = [wording for table in tables for wordings in table.values() for wording in wordings]
    wordings += [*ATTRIBUTES["noun"], *ATTRIBUTES["colour"], *_ANY_MEDIUM, *_FILLERS, "an"]
    return sorted({word for wording in wordings for word in wording.split()})


def draw(count: int, *, size_px=64, seed=0, start=0, combinations="seen", **fixed: str) -> Drawn:
    """Draw scenes number `start` to `start + count - 1` of the endless set with this seed."""
    require_drawable(count, size_px, 16)
    for name, value in fixed.items():
        if name not in ATTRIBUTES:
            known = ", ".join(ATTRIBUTES)
            raise ValueError(
                tr("got {name}={value!r}, expected {known}.", name=name, value=value, known=known)
            )
        if value not in ATTRIBUTES[name]:
            raise ValueError(none_of(name, value, ATTRIBUTES[name]))
    rows = []
    for i in range(start, start + count):
        rng = np.random.default_rng((seed, i))
        chosen = choose(rng, combinations, **fixed)
        subject = NOUNS[ATTRIBUTES["noun"][chosen["noun"]]]
        rows.append((*_draw_one(subject, chosen, rng, size_px), chosen, caption(chosen, rng, leave_out=0.1)))
    return _stack(rows)


def draw_subject(
    name: str, count: int, *, size_px: int = 64, seed: int = 0, **fixed: str | tuple[str, ...]
) -> Drawn:
    """Draw one of `subjects.SUBJECTS` (or DOUBLES) in `count` scenes, flat unless style is given.

    The captions say "a drawing of a creature …": what the individual looks like goes unsaid. fixed:
    attributes by name; those of a tuple are taken in turn.
    """
    individuals = SUBJECTS | DOUBLES
    if name not in individuals:
        raise ValueError(unknown(tr("the subject"), name, SUBJECTS))
    fixed = {"style": "flat", "noun": "creature"} | fixed
    rows = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        given = {
            key: value[i % len(value)] if isinstance(value, tuple) else value for key, value in fixed.items()
        }
        chosen = choose(rng, "any", **given)
        medium = _MEDIUM[ATTRIBUTES["style"][chosen["style"]]][0]
        said = f"{medium} a creature {place(ATTRIBUTES['background'][chosen['background']])}"
        rows.append((*_draw_one(individuals[name], chosen, rng, size_px), chosen, said))
    return _stack(rows)


def _stack(rows):
    """Rows of (image, mask, depth, chosen, caption) as one set."""
    images, masks, depths, attributes, captions = zip(*rows, strict=True)
    return Drawn(
        np.stack(images),
        np.stack(masks)[:, None],
        np.stack(depths)[:, None],
        {name: np.array([chosen[name] for chosen in attributes]) for name in ATTRIBUTES},
        captions,
    )


def _draw_one(subject, chosen, rng, size_px):
    """Picture (3, H, W), mask (H, W) and depth (H, W), each uint8; subject: (x, y, rng) -> parts."""
    axis = ((np.arange(size_px, dtype=np.float32) + 0.5) / size_px) * 2 - 1
    x, y = np.meshgrid(axis, axis)
    px = 2 / size_px
    colour, pattern, background, style = (
        ATTRIBUTES[name][chosen[name]] for name in ("colour", "pattern", "background", "style")
    )
    backdrop, ground, horizon = BACKGROUNDS[background](x, y, rng, px)
    parts = list(subject(*_pose(x, y, rng), rng))
    colours = [rgb(*np.clip(c + rng.normal(0, 0.02, 3), 0, 1)) for c in COLOURS[colour]]
    picture = STYLES[style](backdrop, parts, colours, pattern, rng, px)
    distance = np.minimum.reduce([part.distance for part in parts])
    mask = cover(distance, px)
    return tuple(_to_uint8(array) for array in (picture, mask, _depth(y, ground, horizon, distance, mask)))


def _pose(x, y, rng):
    """Shift, turn, scale and perhaps mirror the canvas; the subject then sits upright at the origin."""
    dx, dy = rng.uniform(-0.12, 0.12, 2)
    angle, scale, side = rng.normal(0, 0.1), rng.uniform(0.72, 0.95), rng.choice((-1, 1))
    c, s = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    x, y = x - np.float32(dx), y - np.float32(dy)
    return (c * x + s * y) * np.float32(side), c * y - s * x


def _depth(y, ground, horizon, distance, mask):
    """0 in the sky, rising over the ground towards the viewer, highest on the subject: (H, W), 0..1."""
    floor = ground * np.clip((y - horizon) / (1 - horizon), 0, 1) * np.float32(0.5)
    bulge = np.float32(0.75) + np.float32(0.25) * np.clip(-distance / np.float32(0.35), 0, 1)
    return floor + mask * (bulge - floor)


def _to_uint8(array):
    return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
