"""Seconds to 64 pictures of equal quality: the course's samplers against Diffusers' 50 steps of DDIM.

The quality to come up to is that of 1,000 steps of DDPM on the same network, and that of those 50 steps
themselves: with a small network the noise that DDPM adds can do more harm than its many steps do good.
"""

from __future__ import annotations

from functools import partial

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
EQUAL = 1.05  # times the Fréchet distance of a standard
PICTURES = 64
STOCK = "Diffusers, ddim, 50 calls"


def measure(quick: bool) -> dict:
    """The curve of quality against network calls, and the race of the cheapest equal sampler."""
    pipeline = DDPMPipeline.from_pretrained(checkpoints.verified("ddpm-butterflies"))
    if quick:
        return compare(pipeline, calls=(6, 12), reference_steps=30, count=72, rounds=1)
    calls = (4, 6, 8, 10, 12, 16, 20, 25, 50)
    return compare(pipeline, calls, reference_steps=1000, count=512, rounds=5)


def compare(pipeline, calls: tuple[int, ...], reference_steps: int, count: int, rounds: int) -> dict:
    """Fréchet distances of `count` samples for each sampler and number of calls; seconds for 64 pictures.

    Of those that come within 5% of a standard the one with the fewest calls is taken, if it does so with
    other noise, too: the best of many figures is a little lucky.
    """
    score = Score(count)
    stock = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config))
    stock.set_progress_bar_config(disable=True)

    def frechet(name, steps, seed=3, precision="auto"):
        noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
        chance = torch.Generator().manual_seed(seed)  # one for all parts: the same noise would make twins
        samples = [sample(pipeline, name, steps, part, chance, precision) for part in noise.split(PICTURES)]
        return score.frechet(torch.cat(samples))

    standards = {
        f"{reference_steps} steps of DDPM": frechet("ddpm", reference_steps, precision="fp32"),
        "those 50 steps of DDIM": score.frechet(_drawn(stock, count)),
    }
    curve = {name: [frechet(name, steps) for steps in calls] for name in SAMPLERS}

    def cheapest(enough):
        ranked = sorted(
            (steps, distance, name)
            for name, distances in curve.items()
            for steps, distance in zip(calls, distances, strict=True)
            if distance <= enough
        )
        confirmed = (
            {"sampler": name, "calls": steps, "frechet": frechet(name, steps, seed=4)}
            for steps, _, name in ranked
        )
        return next((row for row in confirmed if row["frechet"] <= enough), None)

    equals = {name: cheapest(EQUAL * distance) for name, distance in standards.items()}
    seconds = _race(pipeline, stock, filter(None, equals.values()), rounds)
    return {"standards": standards, "calls": calls, "curve": curve, "equals": equals, "seconds": seconds}


def _drawn(stock, count):
    generator = torch.Generator().manual_seed(0)
    drawn = [stock(PICTURES, generator).images for _ in range(-(-count // PICTURES))]
    return torch.cat([data.to_model(data.stack(images)) for images in drawn])[:count]


def _race(pipeline, stock, equals, rounds):
    shape, generator = (PICTURES, 3, 32, 32), torch.Generator().manual_seed(0)

    def course(row):
        noise = torch.randn(shape, generator=generator)
        return data.to_uint8(sample(pipeline, row["sampler"], row["calls"], noise, generator))

    contestants = {_label(row): partial(course, row) for row in equals}
    return medians(turns(contestants | {STOCK: lambda: stock(PICTURES, generator)}, rounds))


def _label(row):
    return f"course, {row['sampler']}, {row['calls']} calls"


def sample(
    pipeline, name: str, steps: int, noise: Tensor, generator: torch.Generator, precision: str = "auto"
) -> Tensor:
    """Pictures from noise (B, 3, H, W) by one of the course's samplers, in [-1, 1]; generator: for DDPM."""
    alpha_bar, kind = pipeline.scheduler.alphas_cumprod, diffusion.prediction_of(pipeline.scheduler)
    denoise = diffusion.denoiser(pipeline.unet, alpha_bar, kind)
    more = {"generator": generator} if name == "ddpm" else {}
    with torch.inference_mode(), train.autocast(noise.device, precision):
        walk = SAMPLERS[name](denoise, noise, alpha_bar, diffusion.spaced_timesteps(steps), **more)
        return diffusion.last(walk).float()


def bars(result: dict) -> list[Bar]:
    """At most a quarter of the time, at equal quality."""
    seconds = result["seconds"]
    return [
        Bar(
            f"seconds for 64 pictures as good as {name}, share of 50 of DDIM",
            seconds[_label(row)] / seconds[STOCK] if row else float("inf"),  # none was equal
            "at most",
            0.25,
        )
        for name, row in result["equals"].items()
    ]


def draw(result: dict):
    """Fréchet distance against network calls for every sampler, with the bars of equal quality."""
    calls = result["calls"]
    panels = {
        name: dict(zip(map(str, calls), values, strict=True)) for name, values in result["curve"].items()
    }
    lines = {name: (calls, values) for name, values in result["curve"].items()}
    equal = {f"as good as {name}": EQUAL * distance for name, distance in result["standards"].items()}
    lines |= {name: ((calls[0], calls[-1]), (distance,) * 2) for name, distance in equal.items()}
    told = ", ".join(f"{name}: {distance:.1f}" for name, distance in equal.items())
    alt = described(panels, f"Curves of the Fréchet distance by number of network calls; {told}")
    return show.curves(lines, "network calls", "Fréchet distance", alt=alt, log_y=True, markers=True)
