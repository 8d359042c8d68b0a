"""Scale, device and precision: what this machine can afford, in one place."""

from __future__ import annotations

import os
from functools import cache

from course_utils.messages import tr

SCALES = ("mini", "full")


@cache
def device() -> str:
    """ "cuda", "mps" or "cpu": the fastest that torch can use here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def scale() -> str:
    """ "full" where there is CUDA, "mini" elsewhere; the environment variable COURSE_SCALE overrides it."""
    chosen = os.environ.get("COURSE_SCALE") or ("full" if device() == "cuda" else "mini")
    if chosen not in SCALES:
        raise ValueError(
            tr(
                "got COURSE_SCALE={chosen!r}, expected mini or full: set one of them, or unset it.",
                chosen=chosen,
            )
        )
    return chosen


def pick(mini, full):
    """`mini` or `full`, whichever the scale is."""
    return {"mini": mini, "full": full}[scale()]


def effort(mini: int, full: int) -> int:
    """How many steps, samples or pictures a batch: `mini` or `full`, at most COURSE_REHEARSAL if it is set.

    A rehearsal learns nothing: it shows in minutes that every cell of a notebook runs on this machine.
    """
    count, most = pick(mini, full), os.environ.get("COURSE_REHEARSAL") or str(max(mini, full))
    if not most.isdecimal() or int(most) < 1:
        raise ValueError(
            tr("got COURSE_REHEARSAL={most!r}, expected a number from 1 up: set one, or unset it.", most=most)
        )
    return min(count, int(most))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever device, says that memory has run out."""
    import torch

    words = ("DefaultCPUAllocator", "out of memory")
    told = isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    return told or isinstance(error, (MemoryError, torch.OutOfMemoryError))


@cache
def fast_bf16(device_type: str) -> bool:
    """Whether bfloat16 is native on this device: there autocast gains time, elsewhere it loses."""
    import torch

    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device_type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_cpu_flag("avx512_bf16")
    )


def _has_cpu_flag(flag):
    try:
        with open("/proc/cpuinfo") as file:
            return flag in file.read()
    except OSError:
        return False
