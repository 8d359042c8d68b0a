"""CPU time until a Fréchet distance: the course's recipe against the commonly published one."""

from __future__ import annotations

import time

import torch
from diffusers import DDPMScheduler

from benchmarks.plain import plain_loop, small_unet, wide_unet
from course_utils import data, diffusion, scores, train


def time_to_quality(published_steps: int = 480, course_steps: int = 750, looks: int = 6) -> dict:
    """Train by the published recipe (linear betas, eps, 4e-4, batch 64), then by the course's.

    Returns the published recipe's Fréchet distance and CPU seconds, the course's at several moments, and
    the share of CPU time after which the course's is as good. The time of sampling is not counted.
    """
    images = data.butterflies(1000)
    published = _published(images, published_steps)
    course = _course(images, course_steps, looks)
    as_good = [row for row in course if row["frechet"] <= published["frechet"]]
    share = round(as_good[0]["cpu_seconds"] / published["cpu_seconds"], 3) if as_good else None
    return {"published": published, "course": course, "share_of_cpu_time": share}


def _published(images, steps):
    torch.manual_seed(0)
    model, scheduler = wide_unet(), DDPMScheduler(beta_schedule="linear")
    started = time.process_time()
    for _ in plain_loop(model, images, scheduler, batch_size=64, steps=steps, rate_at=lambda _: 4e-4):
        pass
    seconds = time.process_time() - started
    return _row(steps, seconds, frechet(model, scheduler.alphas_cumprod, "eps"))


def _course(images, steps, looks):
    torch.manual_seed(0)
    run = train.Run(small_unet(), train.Recipe(steps=steps))
    alpha_bar, rows, seconds = diffusion.cosine_alpha_bar(), [], 0.0
    started = time.process_time()
    for progress in train.train(run, data.Batches(images, 32), train.diffusion_loss(alpha_bar, "x0")):
        if progress.step % (steps // looks) == 0:
            seconds += time.process_time() - started
            rows.append(_row(progress.step, seconds, frechet(run.ema, alpha_bar, "x0")))
            started = time.process_time()
    return rows


def _row(steps, seconds, distance):
    return {"steps": steps, "cpu_seconds": round(seconds, 1), "frechet": round(distance, 1)}


def frechet(model, alpha_bar, prediction: str, count: int = 256) -> float:
    """Fréchet distance of `count` samples (50 steps of DDIM) to 1,000 drawings that no recipe trained on."""
    judge = scores.load_judge("judge-butterflies")
    real = scores.features(judge, data.to_model(data.butterflies(1000, seed=77).images))
    noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    denoise, ts = diffusion.denoiser(model, alpha_bar, prediction), diffusion.spaced_timesteps(50)
    was_training = model.training
    model.eval()
    samples = torch.cat([diffusion.last(diffusion.ddim(denoise, x, alpha_bar, ts)) for x in noise.split(64)])
    model.train(was_training)
    return scores.frechet_distance(scores.features(judge, samples), real)
