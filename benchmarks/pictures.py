"""Text to picture: the course's guided sampler and `StableDiffusionPipeline.__call__`, to equal pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import StableDiffusionPipeline

from benchmarks.draw import bar_charts
from benchmarks.measure import Bar, medians, turns
from course_utils import asking, checkpoints, data, latent, profile

PROMPTS = asking.prompts(16, "any", seed=0)[0]
STEPS, SCALE = 25, 7.5  # the latter is the default of the call
MOST_SHADES = 2  # of 255, that two pictures may differ by and still count as equal


def measure(quick: bool) -> dict | str:
    """One prompt and 16, 25 guided steps."""
    try:
        pipeline = load()
    except (KeyError, OSError) as error:
        return f"not measured: {error.args[0]}"
    return compare(pipeline, (1, 16), rounds=1 if quick else 9)


def load() -> StableDiffusionPipeline:
    """The miniature `sd`; KeyError if there is none."""
    return checkpoints.load(StableDiffusionPipeline, "sd")


def compare(pipeline, counts: Sequence[int], rounds: int, steps: int = STEPS) -> dict:
    """For each number of prompts: seconds of both (median), their ratio, the largest difference in shades.

    Where bfloat16 is fast, that of the course is measured, too: for what it would save, and change.
    """
    return {
        f"{count} prompt{'s' * (count > 1)}": _compare(pipeline, PROMPTS[:count], rounds, steps)
        for count in counts
    }


def _compare(pipeline, prompts, rounds, steps):
    work, more = contestants(pipeline, prompts, steps), {}
    if profile.fast_bf16(pipeline.unet.device.type):
        work["course, bfloat16"] = contestants(pipeline, prompts, steps, "bf16")["course"]
        more["shades_bf16"] = shades(pipeline, prompts, steps, "bf16")
    seconds = medians(turns(work, rounds))
    ratio = seconds["course"] / seconds["Diffusers"]
    return {"seconds": seconds, "ratio": ratio, "shades": shades(pipeline, prompts, steps), **more}


def contestants(pipeline, prompts: Sequence[str], steps: int, precision="fp32") -> dict[str, Callable]:
    """Both ways to a uint8 picture, from words; the stock call with its defaults but the steps."""
    pipeline.set_progress_bar_config(disable=True)

    def course(seed=0):
        generator = torch.Generator().manual_seed(seed)
        settings = {"steps": steps, "scale": SCALE, "generator": generator, "precision": precision}
        return data.to_uint8(latent.draw(pipeline, prompts, **settings))

    def stock(seed=0):
        generator = torch.Generator().manual_seed(seed)
        return pipeline(list(prompts), num_inference_steps=steps, generator=generator).images

    return {"course": course, "Diffusers": stock}


def shades(pipeline, prompts: Sequence[str], steps: int = STEPS, precision="fp32") -> int:
    """The largest difference of a pixel, of 255, between the pictures of both, from the same noise."""
    both = contestants(pipeline, prompts, steps, precision)
    ours, theirs = both["course"](), data.stack(both["Diffusers"]())
    return (ours.int() - theirs.int()).abs().max().item()


def bars(result: dict) -> list[Bar]:
    """At most 0.7 of the time, and equal pictures."""
    return [
        bar
        for count, row in result.items()
        for bar in (
            Bar(f"text to picture, {count}: share of the stock call's seconds", row["ratio"], "at most", 0.7),
            Bar(f"text to picture, {count}: difference in shades", row["shades"], "at most", MOST_SHADES),
        )
    ]


def draw(result: dict):
    """Seconds, one chart for each number of prompts."""
    return bar_charts({count: row["seconds"] for count, row in result.items()}, "seconds, less is better")
