"""Be the denoiser: which picture of a small set hides in the noise?"""

from __future__ import annotations

import torch

from course_utils import diffusion
from course_utils.explore.frame import (
    ALPHA_BAR,
    LAST,
    as_pictures,
    choice,
    contact_sheet,
    panel,
    single,
    slider,
    tiles,
    within,
)
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture

SIZE = (9.6, 3.4)  # inches


def _draw_be_the_denoiser(figure, images, t, round, guess):
    within("t", t, 0, LAST)
    within("guess", guess, 0, len(images))
    hidden, xt = _hide(images, t, round)
    weight = diffusion.posterior(xt, torch.tensor([t]), images, ALPHA_BAR)[0]  # (N,)
    mean = diffusion.ideal_denoiser(images, ALPHA_BAR)(xt, torch.tensor([t]))
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1, 1.2), height_ratios=(1.3, 1), left=0.0, right=0.99, top=0.92, bottom=0.08,
        hspace=0.3, wspace=0.06,
    )  # fmt: skip
    choices, shown, bars = (figure.add_subplot(g) for g in (grid[:, 0], grid[0, 1], grid[1, 1]))
    tiles(choices, images, [str(i + 1) for i in range(len(images))], columns=_columns(len(images)))
    if guess:
        tiles(
            shown,
            torch.cat([xt, mean, images[hidden][None]]),
            [f"xt, t = {t}", "ideal x0_hat", f"it was {hidden + 1}"],
        )
    else:
        tiles(shown, torch.cat([xt, *[torch.ones_like(xt)] * 2]), [f"xt, t = {t}", "", ""])
    _bars(bars, weight, hidden, guess)
    return _words(t, weight, hidden, guess, mean, images)


def _columns(count):
    return max(1, round((1.3 * count) ** 0.5))


def _hide(images, t, round):
    """The hidden picture's index and its noisy version (1, C, H, W); the round draws both."""
    generator = torch.Generator().manual_seed(round)
    hidden = int(torch.randint(len(images), (1,), generator=generator))
    eps = torch.randn(images[:1].shape, generator=generator)
    return hidden, diffusion.add_noise(images[hidden][None], eps, torch.tensor([t]), ALPHA_BAR)


def _bars(ax, weight, hidden, guess):
    numbers = range(1, len(weight) + 1)
    ax.set(xlim=(0.3, len(weight) + 0.7), ylim=(0, 1.22), xticks=numbers, yticks=(0, 0.5, 1))
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    if not guess:
        ax.text(
            0.5, 0.5, "Guess first: which picture is in xt?", ha="center", transform=ax.transAxes, fontsize=11
        )
        return
    drawn = ax.bar(numbers, weight.tolist(), color=COLOURS[0])
    drawn[hidden].set(facecolor=COLOURS[4], hatch="//", edgecolor="black")
    ax.set_title("posterior: how likely each picture is, given xt", fontsize=9)
    marks = {hidden + 1: "it was"}
    marks[guess] = "you: right" if guess == hidden + 1 else "you"
    for number, mark in marks.items():
        ax.text(number, weight[number - 1] + 0.03, mark, ha="center", fontsize=8, fontweight="bold")


def _words(t, weight, hidden, guess, mean, images):
    signal = ALPHA_BAR[t].sqrt().item()
    asked = f"One of {len(weight)} numbered pictures hides in xt at t = {t} (signal weight {signal:.3f})."
    if not guess:
        return asked + " No guess yet: choose one, and the posterior and the ideal denoiser's answer appear."
    verdict = "right" if guess == hidden + 1 else f"wrong, it was picture {hidden + 1}"
    order = weight.argsort(descending=True)[:3].tolist()
    likely = ", ".join(f"{100 * weight[i].item():.1f}% picture {i + 1}" for i in order)
    distance = (images - mean).square().mean((1, 2, 3)).sqrt()
    return (
        f"{asked} You guessed picture {guess}: {verdict}. The posterior says {likely}. The ideal denoiser "
        f"answers with the mean under the posterior; the nearest picture of the set, "
        f"number {int(distance.argmin()) + 1}, is {distance.min():.3f} away from it (root mean square; "
        f"pictures span -1 to 1)."
    )


def telling_t(images) -> int:
    """A timestep at which the posterior wavers between the pictures (N, C, H, W) of this set.

    There the log odds of the true picture against another are about 1 on average: alpha_bar / (1 - alpha_bar)
    times half of the median squared distance of two pictures.
    """
    apart = torch.pdist(_several(images).flatten(1)).median() ** 2 / 2
    return int((diffusion.log_snr(ALPHA_BAR).exp() * apart - 1).abs().argmin())


def _several(images):
    images = as_pictures(images)
    if len(images) < 2:
        raise ValueError(tr("got 1 picture, expected at least 2 to guess among: pass about 12."))
    return images


def draw_be_the_denoiser(images, t: int | None = None, round: int = 0, guess: int = 0) -> Picture:
    """A noisy picture of a small set; after a guess, the posterior over the set, and the ideal answer.

    Against: "a perfect denoiser finds the picture". It answers with an average, weighted by how likely each
    picture is. images: the set, about 12 of (C, H, W), uint8 or in [-1, 1]. t: 0 to 999 on the cosine
    schedule; None takes `telling_t`. round: seed of the hidden picture and the noise. guess: 1 to N as
    numbered, or 0 for none yet.
    """
    images = _several(images)
    return single(_draw_be_the_denoiser, SIZE, images, telling_t(images) if t is None else t, round, guess)


def be_the_denoiser(images):
    """`draw_be_the_denoiser` with controls for t, round and guess; a new round takes the guess back."""
    images = as_pictures(images)
    numbered = [(tr("picture {number}", number=i), i) for i in range(1, len(images) + 1)]
    controls = {
        "t": slider(tr("timestep t"), 0, LAST, telling_t(images)),
        "round": slider(tr("round"), 0, 19, 0),
        "guess": choice(tr("your guess"), [(tr("none yet"), 0), *numbered], 0),
    }
    controls["round"].observe(lambda _: controls["guess"].set_trait("value", 0), "value")
    return panel(lambda **settings: draw_be_the_denoiser(images, **settings), controls)


def be_the_denoiser_sheet(images, round: int = 0, guess: int = 1) -> Picture:
    """`draw_be_the_denoiser` at little, telling and overwhelming noise: one hidden picture, one guess."""
    images = as_pictures(images)
    telling = telling_t(images)
    settings = [{"t": t, "round": round, "guess": guess} for t in (telling // 2, telling, LAST)]
    intro = "Be the denoiser at three noise levels."
    return contact_sheet(_draw_be_the_denoiser, SIZE, images, settings=settings, intro=intro)
