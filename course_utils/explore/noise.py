"""The noise dial: one picture, a schedule, a timestep."""

from __future__ import annotations

import torch

from course_utils import diffusion
from course_utils.explore.frame import (
    as_pictures,
    choice,
    contact_sheet,
    known,
    panel,
    single,
    slider,
    tiles,
    within,
)
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture, plot

SCHEDULES = {
    "linear": diffusion.linear_alpha_bar(),
    "cosine": diffusion.cosine_alpha_bar(),
    "linear, too little": diffusion.linear_alpha_bar(beta_end=0.002),
}
LAST = len(SCHEDULES["linear"]) - 1
SIZE = (9.6, 2.7)  # inches


def _draw_noise_dial(figure, images, t, schedule, seed, picture):
    alpha_bar = known("schedule", schedule, SCHEDULES)
    x0 = images[within("picture", picture, 0, len(images) - 1)][None]  # (1, C, H, W)
    within("t", t, 0, LAST)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    xt = diffusion.add_noise(x0, eps, torch.tensor([t]), alpha_bar)
    signal, noise = alpha_bar[t].sqrt().item(), (1 - alpha_bar[t]).sqrt().item()
    pictures, bars, curve = figure.subplots(
        1,
        3,
        width_ratios=(2.3, 1, 2),
        gridspec_kw={"left": 0.01, "right": 0.985, "top": 0.87, "bottom": 0.19, "wspace": 0.25},
    )
    tiles(pictures, torch.cat([x0, xt]), ["x0", f"xt at t = {t}"])
    _weights(bars, signal, noise)
    _log_snr(curve, schedule, t)
    return _words(t, schedule, signal, noise, alpha_bar)


def _weights(ax, signal, noise):
    drawn = ax.bar(["signal\n√ᾱ", "noise\n√(1-ᾱ)"], [signal, noise], color=COLOURS[:2], width=0.6)
    drawn[1].set_hatch("//")
    ax.bar_label(drawn, fmt="%.3f", fontsize=9)
    ax.set(ylim=(0, 1.15), yticks=(0, 0.5, 1), ylabel="weight in xt")
    ax.set_title(f"{100 * signal**2:.1f}% of the power is signal", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _log_snr(ax, schedule, t):
    ts = list(range(0, LAST + 1, 9))
    plot(ax, {name: (ts, diffusion.log_snr(a[ts])) for name, a in SCHEDULES.items()}, "t", "log-SNR")
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.text(LAST, 1.2, "line: signal = noise", ha="right", va="bottom", fontsize=8, color="0.3")
    chosen = list(SCHEDULES).index(schedule)
    ax.lines[chosen].set_linewidth(2.6)
    ax.plot([t], [diffusion.log_snr(SCHEDULES[schedule][t])], "o", color=COLOURS[chosen], ms=9, mec="black")
    ax.set(ylim=(-14, 11), yticks=(-10, -5, 0, 5, 10), xticks=(0, 250, 500, 750, 1000))
    ax.legend(frameon=False, fontsize=8, loc="lower left")


def _words(t, schedule, signal, noise, alpha_bar):
    balance = int((alpha_bar < 0.5).float().argmax())
    where = f"are equal at t = {balance}" if alpha_bar[-1] < 0.5 else "never become equal"
    return (
        f"x0 beside xt at t = {t} of 0 to {LAST}, schedule {schedule}: the signal's weight sqrt(alpha_bar) "
        f"is {signal:.3f}, the noise's weight sqrt(1 - alpha_bar) is {noise:.3f}, so the signal has "
        f"{100 * signal**2:.1f}% of the power; log-SNR is {diffusion.log_snr(alpha_bar[t]).item():.2f}. On "
        f"this schedule signal and noise {where}; at t = 500, half way, the signal has "
        f"{100 * alpha_bar[500].item():.1f}% of the power."
    )


def draw_noise_dial(
    images, t: int = 500, schedule: str = "linear", seed: int = 0, picture: int = 0
) -> Picture:
    """A picture, the same with noise, the weights of both in it, and log-SNR over t for three schedules.

    Against: "half way through the timesteps, half of the picture is left". images: (N, C, H, W), uint8 or in
    [-1, 1], or an ImageSet. t: 0 to 999. schedule: a name in SCHEDULES. seed: of the noise, which is the same
    for every t. picture: 0 to N - 1. xt is shown cut off to [-1, 1].
    """
    return single(_draw_noise_dial, SIZE, as_pictures(images), t, schedule, seed, picture)


def noise_dial(images):
    """`draw_noise_dial` with controls for t, schedule, seed and picture."""
    images = as_pictures(images)
    controls = {
        "t": slider(tr("timestep t"), 0, LAST, 500),
        "schedule": choice(tr("schedule"), list(SCHEDULES), "linear"),
        "seed": slider(tr("seed of the noise"), 0, 9, 0),
        "picture": slider(tr("picture"), 0, len(images) - 1, 0),
    }
    return panel(lambda **settings: draw_noise_dial(images, **settings), controls)


def noise_dial_sheet(images, picture: int = 0, seed: int = 0) -> Picture:
    """`draw_noise_dial` at t = 250 and 500 of linear, 500 of cosine, 999 of too little noise."""
    settings = [
        {"t": t, "schedule": schedule, "seed": seed, "picture": picture}
        for schedule, t in (("linear", 250), ("linear", 500), ("cosine", 500), ("linear, too little", LAST))
    ]
    intro = f"The noise dial at {len(settings)} settings."
    return contact_sheet(_draw_noise_dial, SIZE, as_pictures(images), settings=settings, intro=intro)
