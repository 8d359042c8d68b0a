"""The mix of two prompts: samples between them, with what an independent reader makes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from course_utils.explore.frame import choice, contact_sheet, known, panel, single, slider, stops, tiles
from course_utils.messages import tr
from course_utils.show import Picture

SHARES = (0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1)
SIZE = (9.6, 1.75)  # inches

Sample = Callable[[str, str, float, int], Tensor]  # (first, second, share, seed) -> (N, 3, H, W) in [-1, 1]
Reader = Callable[[Tensor, list[str]], Tensor]  # (pictures, prompts) -> (N, prompts), adding up to 1


def _draw_prompt_mix(figure, sample, read, prompts, first, second, share, seed):
    one, two = (
        known(name, i, dict(enumerate(prompts))) for name, i in (("first", first), ("second", second))
    )
    known("share", share, dict.fromkeys(SHARES))
    pictures = sample(one, two, share, seed)
    reads_second = read(pictures, [one, two])[:, 1]
    ax = figure.subplots(gridspec_kw={"left": 0.005, "right": 0.995, "bottom": 0.01, "top": 0.74})
    tiles(ax, pictures, [f"{100 * part:.0f}% second" for part in reads_second.tolist()])
    title = f"{100 * (1 - share):.0f}% {one!r}, {100 * share:.0f}% {two!r}"
    ax.set_title(title, fontsize=9, loc="left", pad=17)
    taken = (reads_second > 0.5).float().mean().item()
    return (
        f"{len(pictures)} samples of a mix, {1 - share:g} of {one!r} and {share:g} of {two!r}, seed {seed}: "
        f"{taken:.0%} of them are read as the second prompt rather than the first; in the mean the reader "
        f"gives the second {reads_second.mean():.0%}."
    )


def draw_prompt_mix(
    sample: Sample,
    read: Reader,
    prompts: Sequence[str],
    first: int = 0,
    second: int = 1,
    share: float = 0.5,
    seed: int = 0,
) -> Picture:
    """Samples of a mix of two prompts' states, with what a reader makes of each.

    Against: "half way between two prompts lies a picture of both". sample(first, second, share, seed):
    pictures (N, 3, H, W) in [-1, 1]. read(pictures, prompts): how well each fits, adding up to 1. first,
    second: indices into prompts. share: of the second, one of SHARES.
    """
    return single(_draw_prompt_mix, SIZE, sample, read, prompts, first, second, share, seed)


def prompt_mix(sample: Sample, read: Reader, prompts: Sequence[str]):
    """`draw_prompt_mix` with controls for both prompts, the share of the second and the seed."""
    options = [(prompt, i) for i, prompt in enumerate(prompts)]
    controls = {
        "share": stops(tr("share of the second"), [(f"{s:g}", s) for s in SHARES], 0.5),
        "first": choice(tr("first"), options, 0),
        "second": choice(tr("second"), options, 1),
        "seed": slider(tr("seed"), 0, 9, 0),
    }
    return panel(lambda **settings: draw_prompt_mix(sample, read, prompts, **settings), controls)


def prompt_mix_sheet(
    sample: Sample, read: Reader, prompts: Sequence[str], first: int = 0, second: int = 1, seed: int = 0
) -> Picture:
    """`draw_prompt_mix` of the first alone, three mixes, and the second alone."""
    ends = {"first": first, "second": second, "seed": seed}
    settings = [{"share": share} | ends for share in (0, 0.3, 0.5, 0.7, 1)]
    intro = "The mix of two prompts at five shares of the second."
    return contact_sheet(_draw_prompt_mix, SIZE, sample, read, prompts, settings=settings, intro=intro)
