"""Draw every figure of the READMEs from the course's own models.

python -m recipes.figures          (or: make figures) half a minute on 2 CPU cores
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMPipeline

from course_utils import checkpoints, data, diffusion, runs, show


def main() -> None:
    unet = DDPMPipeline.from_pretrained(checkpoints.MINIATURES / "ddpm-butterflies").unet.eval()
    folder = Path("unit1/figures")
    folder.mkdir(exist_ok=True)
    for name, picture in {
        "noise_to_butterflies.gif": noise_to_butterflies(unet).gif,
        "chain.png": chain(unet).png(),
        "many_small_steps.png": many_small_steps(unet).png(),
    }.items():
        with runs.whole_file(folder / name) as file:
            file.write_bytes(picture)
        print(f"{folder / name}: {len(picture) / 1e6:.2f} MB")


def walk(unet, count: int, steps: int, seed: int) -> list[diffusion.Step]:
    """`count` pictures from noise by DDIM: every (t, xt, x0_hat), and the result as a last xt."""
    alpha_bar = diffusion.cosine_alpha_bar()
    noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    denoise = diffusion.denoiser(unet, alpha_bar, "x0")
    steps = list(diffusion.ddim(denoise, noise, alpha_bar, diffusion.spaced_timesteps(steps)))
    return [*steps, (0, steps[-1][2], steps[-1][2])]


def noise_to_butterflies(unet) -> show.Animation:
    """The moving picture of the top README: 16 samples, noise at first, butterflies at last."""
    frames = [xt for _, xt, _ in walk(unet, count=16, steps=24, seed=5)]
    return show.animation(
        frames, columns=8, seconds=4, scale=2, alt="16 squares of noise turn into 16 butterflies"
    )


def chain(unet) -> show.Picture:
    """To the right, a drawing sinks into noise; to the left, a sample rises from it."""
    alpha_bar = diffusion.cosine_alpha_bar()
    x0 = data.to_model(data.butterflies(1, seed=9).images)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
    backward = walk(unet, count=1, steps=40, seed=12)[::-1]
    columns = []
    for t, place in ((0, 0), (199, 8), (399, 16), (599, 24), (799, 32), (999, 40)):
        forward = x0 if t == 0 else diffusion.add_noise(x0, eps, torch.tensor([t]), alpha_bar)
        columns.append((f"t = {t}", torch.cat([forward, backward[place][1]])))
    alt = "Above, a drawn butterfly sinks into noise from left to right; below, the model's own rises from it"
    return show.strip(columns, ["add noise →", "← denoise"], alt=alt)


def many_small_steps(unet) -> show.Picture:
    """The same noise, denoised in 1, 2, 5, 10 and 40 steps."""
    rows = {
        f"{n} step{'s' * (n > 1)}": walk(unet, count=8, steps=n, seed=12)[-1][1] for n in (1, 2, 5, 10, 40)
    }
    alt = "Eight samples in five rows: one step gives blurs, 5 steps rough butterflies, 40 steps clear ones"
    return show.rows(rows, columns=8, width=5.5, alt=alt)


if __name__ == "__main__":
    main()
