"""CPU time until a Fréchet distance: the course's recipe against the commonly published one."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler

from benchmarks.budget import Score, sample
from benchmarks.measure import Bar, CpuClock
from benchmarks.plain import plain_loop, small_unet, wide_unet
from course_utils import data, diffusion, show, train


def measure(quick: bool) -> dict:
    """480 steps of the published recipe against 750 of the course's."""
    return compare(4, 100, looks=2, count=72, calls=10) if quick else compare(480, 750)


def compare(published_steps: int, course_steps: int, looks=6, count=512, calls=50, images=None) -> dict:
    """Train by the published recipe (linear betas, eps, 4e-4, batch 64), then by the course's.

    Returns the scores and CPU seconds of the published recipe, those of the course's at several moments, and
    the share of CPU time after which the course's Fréchet distance is as good. Sampling is not counted.
    """
    images, score, wanted = images or data.butterflies(1000), Score(count), (count, calls)
    published = score(*_published(images, published_steps, wanted))
    course = [score(*made) for made in _course(images, course_steps, looks, wanted)]
    as_good = [row for row in course if row["frechet"] <= published["frechet"]]
    share = as_good[0]["cpu_seconds"] / published["cpu_seconds"] if as_good else None
    return {"published": published, "course": course, "share_of_cpu_time": share}


def _published(images, steps, wanted):
    torch.manual_seed(0)
    model, scheduler = wide_unet(), DDPMScheduler(beta_schedule="linear")
    recipe = {"batch_size": 64, "rate_at": lambda _: 4e-4, "adam": {}, "max_norm": None}
    clock = CpuClock()
    for _ in plain_loop(model, images, scheduler, steps=steps, **recipe):
        pass
    spent = clock()
    return sample(model, scheduler.alphas_cumprod, "eps", *wanted), steps, spent


def _course(images, steps, looks, wanted):
    torch.manual_seed(0)
    run, alpha_bar = train.Run(small_unet(), train.Recipe(steps=steps)), diffusion.cosine_alpha_bar()
    spent, clock = 0.0, CpuClock()
    for progress in train.train(run, data.Batches(images, 32), train.diffusion_loss(alpha_bar, "x0")):
        if progress.step % (steps // looks) == 0:
            spent += clock()
            yield sample(run.ema, alpha_bar, "x0", *wanted), progress.step, spent
            clock = CpuClock()


def bars(result: dict) -> list[Bar]:
    """At most a quarter of the CPU time."""
    share = result["share_of_cpu_time"]
    share = float("inf") if share is None else share  # it was never as good
    return [Bar("CPU time to the published recipe's Fréchet distance, share", share, "at most", 0.25)]


def draw(result: dict):
    """Fréchet distance against CPU seconds."""
    seconds = [row["cpu_seconds"] for row in result["course"]]
    distances = [row["frechet"] for row in result["course"]]
    there = result["published"]
    alt = (
        f"Fréchet distance over CPU seconds: the course's recipe from {distances[0]:.0f} after "
        f"{seconds[0]:.0f} s to {distances[-1]:.0f} after {seconds[-1]:.0f}; the published one, a point, "
        f"{there['frechet']:.0f} after {there['cpu_seconds']:.0f}."
    )
    lines = {
        "course": (seconds, distances),
        "published recipe": ([there["cpu_seconds"]], [there["frechet"]]),
    }
    return show.curves(
        lines, "CPU seconds", "Fréchet distance", alt=alt, log_x=True, log_y=True, markers=True
    )
