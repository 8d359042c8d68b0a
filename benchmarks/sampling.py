"""Seconds to 64 pictures of equal quality: the course's samplers against Diffusers' 50 steps of DDIM.

The quality to come up to is that of 1,000 steps of DDPM on the same network.
"""

from __future__ import annotations

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from torch import Tensor

from benchmarks.budget import Score
from benchmarks.draw import described
from benchmarks.measure import Bar, medians, turns
from course_utils import checkpoints, data, diffusion, show, train

SAMPLERS = {
    "ddpm": diffusion.ddpm,
    "ddim": diffusion.ddim,
    "euler": diffusion.euler,
    "dpm_solver": diffusion.dpm_solver,
}
EQUAL = 1.05  # times the Fréchet distance of the reference
PICTURES = 64


def measure(quick: bool) -> dict:
    """The curve of quality against network calls, and the race of the cheapest equal sampler."""
    pipeline = DDPMPipeline.from_pretrained(checkpoints.verified("ddpm-butterflies"))
    if quick:
        return compare(pipeline, calls=(6, 12), reference_steps=30, count=72, rounds=1)
    calls = (4, 6, 8, 10, 12, 16, 20, 25, 50)
    return compare(pipeline, calls, reference_steps=1000, count=512, rounds=5)


def compare(pipeline, calls: tuple[int, ...], reference_steps: int, count: int, rounds: int) -> dict:
    """Fréchet distances of `count` samples for each sampler and number of calls; seconds for 64 pictures.

    Of those that come within 5% of the reference the one with the fewest calls is taken, if it does so with
    other noise, too: the best of many figures is a little lucky.
    """
    score = Score(count)

    def frechet(name, steps, seed=3, precision="auto"):
        noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
        samples = [sample(pipeline, name, steps, part, precision) for part in noise.split(PICTURES)]
        return score.frechet(torch.cat(samples))

    reference = frechet("ddpm", reference_steps, precision="fp32")
    curve = {name: [frechet(name, steps) for steps in calls] for name in SAMPLERS}
    ranked = sorted(
        (steps, distances[i], name)
        for name, distances in curve.items()
        for i, steps in enumerate(calls)
        if distances[i] <= EQUAL * reference
    )
    confirmed = ((name, steps, frechet(name, steps, seed=4)) for steps, _, name in ranked)
    chosen = next((row for row in confirmed if row[2] <= EQUAL * reference), None)
    result = {"reference": {"steps": reference_steps, "frechet": reference}, "calls": calls, "curve": curve}
    return result | {"chosen": None} if chosen is None else result | _race(pipeline, score, chosen, rounds)


def _race(pipeline, score, chosen, rounds):
    name, steps, distance = chosen
    stock = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config))
    stock.set_progress_bar_config(disable=True)
    shape, generator = (PICTURES, 3, 32, 32), torch.Generator().manual_seed(0)

    def course():
        return data.to_uint8(sample(pipeline, name, steps, torch.randn(shape, generator=generator)))

    contestants = {
        f"course, {name}, {steps} calls": course,
        "Diffusers, ddim, 50 calls": lambda: stock(PICTURES, generator),
    }
    seconds = medians(turns(contestants, rounds))
    ours, theirs = seconds.values()
    drawn = [stock(PICTURES, generator).images for _ in range(-(-score.count // PICTURES))]
    pictures = torch.cat([data.to_model(data.stack(images)) for images in drawn])[: score.count]
    return {
        "chosen": {"sampler": name, "calls": steps, "frechet": distance},
        "stock_frechet": score.frechet(pictures),
        "seconds": seconds,
        "ratio": ours / theirs,
    }


def sample(pipeline, name: str, steps: int, noise: Tensor, precision: str = "auto") -> Tensor:
    """Pictures from noise (B, 3, H, W) by one of the course's samplers, in [-1, 1]."""
    alpha_bar, kind = pipeline.scheduler.alphas_cumprod, diffusion.prediction_of(pipeline.scheduler)
    denoise = diffusion.denoiser(pipeline.unet, alpha_bar, kind)
    more = {"generator": torch.Generator().manual_seed(0)} if name == "ddpm" else {}
    with torch.inference_mode(), train.autocast(noise.device, precision):
        walk = SAMPLERS[name](denoise, noise, alpha_bar, diffusion.spaced_timesteps(steps), **more)
        return diffusion.last(walk).float()


def bars(result: dict) -> list[Bar]:
    """At most a quarter of the time, at equal quality."""
    ratio = result["ratio"] if result["chosen"] else float("inf")  # none was equal
    return [Bar("seconds for 64 pictures of equal quality, share of 50-step DDIM", ratio, "at most", 0.25)]


def draw(result: dict):
    """Fréchet distance against network calls for every sampler, with the bar of equal quality."""
    calls, equal = result["calls"], EQUAL * result["reference"]["frechet"]
    panels = {
        name: dict(zip(map(str, calls), values, strict=True)) for name, values in result["curve"].items()
    }
    lines = {name: (calls, values) for name, values in result["curve"].items()}
    lines["equal quality"] = ((calls[0], calls[-1]), (equal, equal))
    label = f"Curves of the Fréchet distance by number of network calls; equal quality is {equal:.1f}"
    alt = described(panels, label)
    return show.curves(lines, "network calls", "Fréchet distance", alt=alt, log_y=True, markers=True)
