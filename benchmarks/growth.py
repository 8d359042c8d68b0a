"""Seconds and memory of training against batch, image side and number of training pictures.

Three points each, every one in a process of its own: `python -m benchmarks.growth '{"batch": 32, ...}'` reads
a folder of pictures as a learner's own, trains, and prints seconds a step and the memory that this took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import torch

from benchmarks.measure import Bar, exponent, write_pictures
from benchmarks.peers import ROOT
from course_utils import data, show

USUAL = {"batch": 32, "side": 32, "pictures": 1000, "steps": 24}
POINTS = {"batch": (32, 64, 128), "side": (32, 64, 128), "pictures": (1000, 4000, 16000)}
QUICK = {"batch": (8, 16, 32), "side": (16, 32, 64), "pictures": (64, 128, 256)}


def measure(quick: bool) -> dict:
    """Three points of each, and the exponents of the laws that fit them."""
    usual = {"batch": 8, "side": 32, "pictures": 64, "steps": 3} if quick else USUAL
    plan, known = QUICK if quick else POINTS, {}
    return {what: grow(what, values, usual, known) for what, values in plan.items()}


def grow(what: str, values: tuple[int, ...], usual: dict, known: dict) -> dict:
    """Change one thing, leave the others as usual: seconds a step, MB, and the exponents.

    known: what this run has measured so far; the three lines cross in one point.
    """
    rows = []
    for value in values:
        settings = {**usual, what: value}
        key = json.dumps(settings)
        known[key] = known.get(key) or point(settings)
        rows.append(known[key])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    exponents = {name: exponent(values, column) for name, column in columns.items()}
    return {"values": values, **columns, "exponent": exponents}


def point(settings: dict) -> dict:
    """One point, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = data.butterflies(min(settings["pictures"], 250), size_px=settings["side"]).images
        again = drawn.repeat(-(-settings["pictures"] // len(drawn)), 1, 1, 1)[: settings["pictures"]]
        pictures = write_pictures(again, Path(folder, "pictures"))
        job = json.dumps({**settings, "folder": pictures, "threads": torch.get_num_threads()})
        command = [sys.executable, "-m", "benchmarks.growth", job]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"got a process that failed, expected a figure: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(job: dict) -> dict:
    """Read the folder, train, and tell: the median of seconds a step, and the most memory that this added.

    Memory counts from after two steps on a single drawing, when all libraries are at work: what is left is
    that of the pictures and of the batch.
    """
    from benchmarks.plain import small_unet
    from course_utils import diffusion, train

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    loss = train.diffusion_loss(diffusion.cosine_alpha_bar(), "x0")
    run = train.Run(small_unet(), train.Recipe(steps=2 + job["steps"]))
    tiny = data.Batches(data.butterflies(1), 1)
    steps = train.train(run, lambda n: tiny(n) if n < 2 else batches(n), loss)
    next(steps), next(steps)
    before = psutil.Process().memory_info().rss
    images = data.folder(job["folder"], size_px=job["side"])
    batches = data.Batches(images, job["batch"])
    seconds = []
    for _ in range(job["steps"]):
        started = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - started)
    return {"seconds_per_step": median(seconds[1:]), "memory_mb": max(1.0, (_peak_bytes() - before) / 1e6)}


def _peak_bytes():
    """The most memory that this process has ever had.

    On Linux, getrusage doesn't tell: it counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bars(result: dict) -> list[Bar]:
    """Batch: at most linear. Number of pictures: constant, which is an exponent of at most 0.05."""
    batch, pictures = result["batch"]["exponent"], result["pictures"]["exponent"]
    return [
        Bar("exponent of seconds a step in the batch", batch["seconds_per_step"], "at most", 1.05),
        Bar("exponent of memory in the batch", batch["memory_mb"], "at most", 1.05),
        Bar("exponent of seconds a step in the pictures", pictures["seconds_per_step"], "at most", 0.05),
        Bar("exponent of memory in the pictures", pictures["memory_mb"], "at most", 0.05),
    ]


def draw(result: dict):
    """Seconds and memory over each of the three, with the exponents in the legends."""
    units = {"seconds_per_step": "seconds a step", "memory_mb": "MB added"}
    told = "; ".join(
        f"{units[name]} grow with the power {power:.2f} of {what}"
        for what, row in result.items()
        for name, power in row["exponent"].items()
    )
    figure = show.Picture(9.0, 5.0, f"Growth on logarithmic axes: {told}.")
    axes = figure.subplots(2, len(result), squeeze=False)
    for column, (what, row) in zip(axes.T, result.items(), strict=True):
        for ax, (name, unit) in zip(column, units.items(), strict=True):
            lines = {f"power {row['exponent'][name]:.2f}": (row["values"], row[name])}
            show.plot(ax, lines, what, unit, log_x=True, log_y=True, markers=True)
            ax.set_xticks(row["values"], [str(value) for value in row["values"]])
            ax.set_xticks([], minor=True)
            ax.legend(frameon=False)
    return figure


if __name__ == "__main__":
    print(json.dumps(work(json.loads(sys.argv[1]))))
