"""The whole course on two cores: `make run`, its minutes and its peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.draw import bar_charts
from benchmarks.measure import Bar
from benchmarks.peers import ROOT


def measure(quick: bool) -> dict | str:
    """Every notebook once, as `make run` does; not if `quick`."""
    if quick:
        return "left out of the quick run: all notebooks take longer than it may"
    return run([])


def run(notebooks: list[str]) -> dict:
    """Run the notebooks (all of the course if none is named): seconds, MB and result of each."""
    with tempfile.TemporaryDirectory() as build:
        command = [sys.executable, "-m", "tools.run_notebooks", "--build", build, *notebooks]
        subprocess.run(command, cwd=ROOT, preexec_fn=two_cores, env=environment())
        rows = json.loads(Path(build, "run.json").read_text())
    return {
        "notebooks": rows,
        "minutes": sum(row["seconds"] for row in rows) / 60,
        "peak_gb": max(row["peak_rss_mb"] for row in rows) / 1000,
        "ok": all(row["ok"] for row in rows),
    }


def environment() -> dict:
    """That of a learner on a CPU, at mini scale."""
    return {**os.environ, "COURSE_SCALE": "mini", "CUDA_VISIBLE_DEVICES": ""}


def two_cores() -> None:
    """Leave this process two of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def bars(result: dict) -> list[Bar]:
    """At most 15 minutes and 3 GB, and every notebook through to its end."""
    return [
        Bar("the whole course, minutes on 2 cores", result["minutes"], "at most", 15),
        Bar("the whole course, peak memory in GB", result["peak_gb"], "at most", 3),
        Bar("notebooks that failed", sum(not row["ok"] for row in result["notebooks"]), "at most", 0),
    ]


def draw(result: dict):
    """Minutes and memory of each notebook."""
    minutes = {"whole course": result["minutes"]}
    minutes |= {row["notebook"]: row["seconds"] / 60 for row in result["notebooks"]}
    memory = {"largest": result["peak_gb"]}
    memory |= {row["notebook"]: row["peak_rss_mb"] / 1000 for row in result["notebooks"]}
    return bar_charts({"minutes": minutes, "peak memory, GB": memory}, "minutes, GB; less is better")
