"""Which share of this machine's matrix-product peak is reached: by a training step, and by a guided step.

The peak is measured: the fastest of square matrix products of several sizes, in bfloat16 and in float32. The
work is counted in the network alone, forward and backward; time is that of the whole step, with data, noise,
optimiser and average.
"""

from __future__ import annotations

import time

import torch

from benchmarks import throughput
from benchmarks.draw import bar_charts
from benchmarks.measure import Bar, flops, medians, turns

SIDES = (256, 512, 1024, 2048)
PROMPTS = 16


def measure(quick: bool) -> dict:
    """The peak, and the shares of it."""
    sides, seconds = (SIDES[:3], 0.2) if quick else (SIDES, 1.0)
    peak = {name: matrix_peak(kind, sides, seconds) for name, kind in KINDS.items()}
    rounds = 1 if quick else 5
    races = {
        "wide": throughput.race("wide", rounds=rounds, steps=1 if quick else 3),
        "small": throughput.race("small", rounds=rounds, steps=1 if quick else 12, with_peers=not quick),
    }
    reached = {name: speeds(race) for name, race in races.items()}
    try:
        reached[f"guided step, {PROMPTS} prompts"] = guided(PROMPTS, 1 if quick else 10)
    except (KeyError, OSError) as error:
        print(f"  the guided step is not measured: {error.args[0]}", flush=True)
    return {
        "gflops": peak,
        "reached_gflops": reached,
        "share_of_bf16": {
            name: {who: value / peak["bf16"] for who, value in row.items()} for name, row in reached.items()
        },
        "peers": races["small"]["peers"],
    }


KINDS = {"bf16": torch.bfloat16, "float32": torch.float32}


def matrix_peak(kind: torch.dtype, sides: tuple[int, ...] = SIDES, seconds: float = 1.0) -> float:
    """GFLOP/s of the fastest square matrix product, each size repeated for so many seconds at least."""
    return max(_speed(torch.randn(side, side).to(kind), seconds) for side in sides)


def _speed(a, seconds):
    out, products = torch.mm(a, a), 0  # the first is not counted
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        torch.mm(a, a, out=out)
        products += 1
    return 2 * len(a) ** 3 * products / spent / 1e9


def speeds(race: dict) -> dict[str, float]:
    """GFLOP/s of each contestant of a race."""
    pace = race["images_per_second"]
    return {who: pace[who] * race["flops"][who] / 1e9 for who in pace}


def guided(prompts: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of one guided step of text to picture, in the course and in Diffusers' pipeline.

    Seconds a step are those of a call, with text and decoding: the work of these is counted, too.
    """
    from benchmarks import pictures

    pipeline, steps = pictures.load(), 5
    words = pictures.PROMPTS[:prompts]
    contestants = pictures.contestants(pipeline, words, steps)
    work = flops(contestants["Diffusers"])
    return {who: work / value / 1e9 for who, value in medians(turns(contestants, rounds)).items()}


def bars(result: dict) -> list[Bar]:
    """At least 45% of the bf16 peak for the wide U-Net, 30% for the small one."""
    share = result["share_of_bf16"]
    return [
        Bar("training step, 18.5 M: share of the bf16 peak", share["wide"]["course"], "at least", 0.45),
        Bar("training step, 1.8 M: share of the bf16 peak", share["small"]["course"], "at least", 0.30),
    ]


def draw(result: dict):
    """Shares of the bf16 peak in percent, one chart for each step."""
    panels = {
        name: {who: 100 * value for who, value in row.items()}
        for name, row in result["share_of_bf16"].items()
    }
    return bar_charts(panels, f"% of the bf16 peak, {result['gflops']['bf16']:.0f} GFLOP/s; more is better")
