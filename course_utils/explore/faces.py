"""One net with three faces: the same error of its output, read as eps, as x0 or as v."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils import diffusion
from course_utils.diffusion import Denoiser
from course_utils.explore.frame import contact_sheet, known, panel, single, slider, stops, tiles, within
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture, plot

ERRORS = (0.02, 0.05, 0.1, 0.2, 0.4)  # root mean square, of an output whose own is about 1
SIZE = (9.8, 2.1)  # inches

Decode = Callable[[Tensor], Tensor]  # what the network works on, (N, C, H, W) -> pictures in [-1, 1]


def faces(xt: Tensor, x0_hat: Tensor, t: Tensor, alpha_bar: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """x0_hat again, for each prediction of `diffusion`, once its output has been put wrong by `wrong`.

    At a given xt the outputs eps, x0 and v say the same; so one network has all three. Tensors (B, C, H, W),
    t (B,); computed in float64.
    """
    xt, x0_hat, wrong, alpha_bar = (x.double() for x in (xt, x0_hat, wrong, alpha_bar))
    eps_hat = diffusion.to_eps(x0_hat, xt, t, alpha_bar)
    told = {}
    for prediction in diffusion.PREDICTIONS:
        output = diffusion.target(x0_hat, eps_hat, t, alpha_bar, prediction) + wrong
        told[prediction] = diffusion.to_x0(output, xt, t, alpha_bar, prediction)
    return told


def growth(alpha_bar: Tensor) -> dict[str, Tensor]:
    """How many times as large as the output's error that of x0_hat is, for each prediction: (T,).

    x0 = (xt - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) = sqrt(alpha_bar) xt - sqrt(1 - alpha_bar) v.
    """
    a = alpha_bar.double()
    return {"eps": ((1 - a) / a).sqrt(), "x0": torch.ones_like(a), "v": (1 - a).sqrt()}


def _draw_three_faces(figure, x0, denoise, alpha_bar, decode, t, error, seed):
    within("t", t, 0, len(alpha_bar) - 1)
    known("error", error, dict.fromkeys(ERRORS))
    generator, ts = torch.Generator().manual_seed(seed), torch.tensor([t])
    device, x0, alpha_bar = x0.device, x0.cpu(), alpha_bar.cpu()  # not every GPU has float64
    eps, wrong = (torch.randn(x0.shape, generator=generator).to(x0) for _ in range(2))
    xt = diffusion.add_noise(x0, eps, ts, alpha_bar)
    x0_hat = denoise(xt.to(device), ts.to(device)).cpu()
    told = faces(xt, x0_hat, ts, alpha_bar, error * wrong / wrong.square().mean().sqrt())
    pictures = decode(torch.cat([xt, x0_hat, *(x.to(x0) for x in told.values())]).to(device))
    left, right = figure.subplots(
        1,
        2,
        width_ratios=(2.2, 1),
        gridspec_kw={"left": 0.005, "right": 0.99, "top": 0.82, "bottom": 0.24, "wspace": 0.15},
    )
    tiles(left, pictures, [f"xt, t = {t}", "x0_hat", *(f"error in {face}" for face in told)])
    left.set_title(
        f"the same error of {error:g}, in each of the three outputs", fontsize=9, loc="left", pad=16
    )
    found = {face: (x - x0_hat).square().mean().sqrt().item() for face, x in told.items()}
    _growth(right, alpha_bar, error, t, found)
    return _words(t, error, found, alpha_bar)


def _growth(ax, alpha_bar, error, t, found):
    ts = torch.linspace(0, len(alpha_bar) - 1, 120).round().long()
    lines = {face: (ts, error * times[ts]) for face, times in growth(alpha_bar).items()}
    plot(ax, lines, "t", "error of x0_hat", log_y=True)
    for i, value in enumerate(found.values()):
        ax.plot([t], [value], "osD"[i], color=COLOURS[i], ms=7, mec="black")
    ax.set_ylim(error / 200, error * 200)
    ax.legend(frameon=False, fontsize=8)


def _words(t, error, found, alpha_bar):
    best = min(found, key=found.get)
    alike = int((alpha_bar - 0.5).abs().argmin())
    told = ", ".join(f"{value:.3g} in {face}" for face, value in found.items())
    return (
        f"xt at t = {t}, what the network sees in it (x0_hat), and x0_hat once more after an error of "
        f"{error:g} (root mean square) in its output, read as eps, x0 and v. The error of x0_hat is {told}: "
        f"smallest in {best}. On the right the same over t: for x0 it never changes; for eps it grows with "
        f"sigma and passes that of x0 at t = {alike}; for v it is below both, by 29% where they meet and by "
        "less elsewhere."
    )


def draw_three_faces(
    x0: Tensor,
    denoise: Denoiser,
    alpha_bar: Tensor,
    decode: Decode,
    t: int = 500,
    error: float = 0.2,
    seed: int = 0,
) -> Picture:
    """What an error of the same size in a network's output does to x0_hat, if the output is eps, x0 or v.

    Against: "which of the three a network predicts is only a matter of taste". x0: (1, C, H, W), what the
    network works on, pictures or latents. decode: turns it into pictures. t: 0 to T - 1. error: one of
    ERRORS. seed: of the noise and of the error.
    """
    return single(_draw_three_faces, SIZE, x0, denoise, alpha_bar, decode, t, error, seed)


def three_faces(x0: Tensor, denoise: Denoiser, alpha_bar: Tensor, decode: Decode):
    """`draw_three_faces` with controls for the timestep, the size of the error and the seed."""
    controls = {
        "t": slider(tr("timestep t"), 0, len(alpha_bar) - 1, 500),
        "error": stops(tr("error of the output"), [(f"{e:g}", e) for e in ERRORS], 0.2),
        "seed": slider(tr("seed"), 0, 9, 0),
    }
    return panel(lambda **settings: draw_three_faces(x0, denoise, alpha_bar, decode, **settings), controls)


def three_faces_sheet(
    x0: Tensor, denoise: Denoiser, alpha_bar: Tensor, decode: Decode, error: float = 0.2, seed: int = 0
) -> Picture:
    """`draw_three_faces` at little, middling and much noise."""
    settings = [{"t": t, "error": error, "seed": seed} for t in (100, 500, 900)]
    intro = "One net with three faces at three noise levels."
    return contact_sheet(
        _draw_three_faces, SIZE, x0, denoise, alpha_bar, decode, settings=settings, intro=intro
    )
