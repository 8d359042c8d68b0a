"""What the comparisons share: turns, FLOPs, exponents, and the bars that a figure is held against."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from PIL import Image

from course_utils import profile


@dataclass(frozen=True)
class Bar:
    """A figure and what it is to reach. value: None where it could not be measured."""

    what: str
    value: float | None
    relation: str  # "at least", "at most" or "below"
    limit: float

    @property
    def reached(self) -> bool | None:
        """Whether it is; None where there is no figure."""
        if self.value is None:
            return None
        return {
            "at least": self.value >= self.limit,
            "at most": self.value <= self.limit,
            "below": self.value < self.limit,
        }[self.relation]

    def record(self) -> dict:
        """What goes into build/bench.json."""
        value = self.value if self.value is None or math.isfinite(self.value) else None
        return vars(self) | {"value": value, "reached": self.reached}

    def __str__(self):
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        verdict = {True: "reached", False: "NOT REACHED", None: "-"}[self.reached]
        return f"  {self.what:<66}{value:>13}   {self.relation:>8} {self.limit:<6g} {verdict}"


def turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each needs for its piece of work, (rounds,) each.

    They take turns, in each round another one first, so that whatever else the machine does hits all alike.
    A round before the others is not counted: there memory is fetched and libraries make their plans.
    """
    seconds, names = {name: [] for name in contestants}, list(contestants)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            contestants[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """name -> the median of its seconds."""
    return {name: median(values) for name, values in seconds.items()}


class CpuClock:
    """CPU seconds of this process, and of its children if asked to, from the moment it is made."""

    def __init__(self, children: bool = False):
        self.process, self.children = psutil.Process(), children
        self.started = self._spent()

    def __call__(self) -> float:
        """Seconds until now."""
        return self._spent() - self.started

    def _spent(self):
        own = self.process.cpu_times()
        if not self.children:
            return own.user + own.system
        living = [child.cpu_times() for child in self.process.children(recursive=True)]
        gone = own.children_user + own.children_system
        return own.user + own.system + gone + sum(times.user + times.system for times in living)


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations in the matrix products, convolutions and attention that `work` calls for."""
    from torch.utils import flop_counter

    def attention(query, key, value, *_, **__):
        return flop_counter.sdpa_flop_count(query, key, value)

    def attention_backward(gradient, query, key, value, *_, **__):
        return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)

    mapping = {  # PyTorch doesn't count the form that attention takes on a CPU
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return counter.get_total_flops()


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of the law y = c x^p that fits best: the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def write_pictures(images: torch.Tensor, folder: Path) -> str:
    """A folder of PNG files, for those that read one, of pictures, uint8 (N, 3, H, W); returns its path."""
    folder.mkdir()
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number:05}.png")
    return str(folder)


def machine() -> dict:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "fast_bf16": profile.fast_bf16("cpu"),
        "load": [round(value, 2) for value in os.getloadavg()],  # of others, before the first comparison
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
