"""Images per second of the course's training loop and of the plain one: same network, batch, data, rates."""

from __future__ import annotations

import copy
import time
from statistics import median

import torch
from diffusers import DDPMScheduler

from benchmarks.plain import plain_loop, small_unet, wide_unet
from course_utils import data, diffusion, train


def throughput(name: str, batch_size: int, rounds: int, steps_per_round: int) -> dict:
    """Both loops in turns, a few steps each, so that whatever else the machine does hits both alike.

    Returns images/s of each (median over rounds), their ratio, and the loss of each network after the same
    number of images, on the same unseen pictures and noise.
    """
    torch.manual_seed(0)
    model = {"wide": wide_unet, "small": small_unet}[name]()
    images, steps = data.butterflies(1000), rounds * steps_per_round
    alpha_bar = diffusion.cosine_alpha_bar()
    recipe = train.Recipe(steps=steps, learning_rate=4e-4, warmup_steps=min(10, steps // 2))
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")

    run, plain = train.Run(copy.deepcopy(model), recipe), copy.deepcopy(model).train()
    loops = {
        "course": train.train(run, data.Batches(images, batch_size), train.diffusion_loss(alpha_bar, "x0")),
        "plain": plain_loop(
            plain, images, scheduler, batch_size=batch_size, steps=steps, rate_at=recipe.rate_at
        ),
    }
    seconds = {loop: [] for loop in loops}
    for _ in range(rounds):
        for loop, running in loops.items():
            started = time.perf_counter()
            for _ in range(steps_per_round):
                next(running)
            seconds[loop].append(time.perf_counter() - started)
    speed = {loop: batch_size * steps_per_round / median(values[1:]) for loop, values in seconds.items()}
    losses = {"course": evaluate(run.model, alpha_bar), "plain": evaluate(plain, alpha_bar)}
    return {
        "network": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters",
        "batch": batch_size,
        "steps": steps,
        "images_per_second": {loop: round(value, 1) for loop, value in speed.items()},
        "ratio": round(speed["course"] / speed["plain"], 2),
        "loss": {loop: round(value, 4) for loop, value in losses.items()},
        "loss_ratio": round(losses["course"] / losses["plain"], 3),
    }


@torch.no_grad()
def evaluate(model, alpha_bar, pictures: int = 256) -> float:
    """The loss in x0 of 256 unseen pictures with fixed noise, in float32."""
    x0 = data.to_model(data.butterflies(pictures, seed=77).images)
    generator = torch.Generator().manual_seed(5)
    loss = train.diffusion_loss(alpha_bar, "x0")
    return sum(loss(model.eval(), part, generator).item() for part in x0.split(64)) / (pictures // 64)
