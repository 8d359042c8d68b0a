"""Attention by word: where a U-Net looks for each word of the prompt, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.explore.frame import choice, contact_sheet, known, panel, single, slider, tiles, within
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture, heated

SIZE = (9.8, 2.6)  # inches


@dataclass(frozen=True)
class Look:
    """One step of a sampler: its timestep, the picture x0_hat, (3, H, W) in [-1, 1], and each word's map.

    maps: (words, h, w), how much of the attention at each place goes to the word, 0 to 1.
    """

    t: int
    picture: Tensor
    maps: Tensor


def _draw_word_attention(figure, looks, words, word, step):
    known("word", word, dict(enumerate(words)))
    look = looks[within("step", step, 0, len(looks) - 1)]
    left, right = figure.subplots(
        1,
        2,
        width_ratios=(2, 1.1),
        gridspec_kw={"left": 0.01, "right": 0.98, "top": 0.86, "bottom": 0.12, "wspace": 0.3},
    )
    one = look.maps[word]
    alone = heated(torch.full_like(look.picture, -1.0)[None], one[None])
    labels = ["x0_hat", f"map of {words[word]!r}", "over x0_hat"]
    tiles(left, torch.cat([look.picture[None], alone, heated(look.picture[None], one[None])]), labels)
    left.set_title(f"step {step} of 0 to {len(looks) - 1}, t = {look.t}", fontsize=9, loc="left", pad=14)
    share = look.maps.mean((1, 2))
    _shares(right, words, share, word)
    return _words(look, words, word, step, len(looks), share)


def _shares(ax, words, share, word):
    drawn = ax.barh(range(len(words)), share.tolist(), color="0.75")
    drawn[word].set(facecolor=COLOURS[0], hatch="//", edgecolor="black")
    ax.set(yticks=range(len(words)), ylim=(len(words) - 0.4, -0.6))
    ax.set_yticklabels(words, fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.set_title("share of all attention", fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def _words(look, words, word, step, steps, share):
    one, most = look.maps[word], int(share.argmax())
    row, column = divmod(int(one.argmax()), one.shape[1])
    place = (
        f"{(row + 0.5) / one.shape[0]:.0%} from the top, {(column + 0.5) / one.shape[1]:.0%} from the left"
    )
    return (
        f"Step {step} of 0 to {steps - 1}, t = {look.t}: x0_hat, the map of the word {words[word]!r} from "
        f"dark (lowest) to bright (highest), and both. The word gets between {one.min():.3f} and "
        f"{one.max():.3f} of a place's attention, most at {place}. Of all attention it has "
        f"{share[word]:.1%}; {words[most]!r} has most, {share[most]:.1%}."
    )


def _checked(looks, words):
    if not looks or any(look.maps.shape[0] != len(words) for look in looks):
        raise ValueError(
            tr(
                "got {steps} steps with maps of {maps} words, expected at least one step with {count}: a "
                "map for each word.",
                steps=len(looks),
                maps=sorted({len(look.maps) for look in looks}),
                count=len(words),
            )
        )
    return [Look(look.t, look.picture.detach().float().cpu(), look.maps.float().cpu()) for look in looks]


def draw_word_attention(looks: Sequence[Look], words: Sequence[str], word: int = 0, step: int = 0) -> Picture:
    """Where the U-Net looks for one word at one step, and how all attention is shared among the words.

    Against: "attention maps show what the network understands". They show where a word is read; much of the
    attention goes to tokens that are no words at all. words: a name for each map. word: an index into them.
    step: 0 to len(looks) - 1.
    """
    return single(_draw_word_attention, SIZE, _checked(looks, words), words, word, step)


def word_attention(looks: Sequence[Look], words: Sequence[str], word: int = 0):
    """`draw_word_attention` with controls for the word and the step."""
    looks = _checked(looks, words)
    controls = {
        "word": choice(tr("word"), [(name, i) for i, name in enumerate(words)], word),
        "step": slider(tr("step"), 0, len(looks) - 1, len(looks) // 2),
    }
    return panel(lambda **settings: single(_draw_word_attention, SIZE, looks, words, **settings), controls)


def word_attention_sheet(looks: Sequence[Look], words: Sequence[str], word: int = 0) -> Picture:
    """`draw_word_attention` of one word at the first, a middle and the last step."""
    looks = _checked(looks, words)
    settings = [{"word": word, "step": step} for step in (0, len(looks) // 2, len(looks) - 1)]
    intro = "Attention by word at three steps."
    return contact_sheet(_draw_word_attention, SIZE, looks, words, settings=settings, intro=intro)
