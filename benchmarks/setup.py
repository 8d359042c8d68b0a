"""Set-up: seconds from clone to the first butterflies that the reader's own model drew, without downloads."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.course import environment, two_cores
from benchmarks.draw import bar_charts
from benchmarks.measure import Bar
from benchmarks.peers import ROOT

NOTEBOOK, PICTURE = "unit1/01_introduction_to_diffusers.ipynb", "sample"  # the cell that draws them


def measure(quick: bool) -> dict | str:
    """Clone, `make install`, and the first notebook up to its first samples; not if `quick`."""
    if quick:
        return "left out of the quick run: an installation takes longer than it may"
    with tempfile.TemporaryDirectory() as folder:
        wheels = download(Path(folder, "wheels"))
        return timed(Path(folder, "course"), wheels)


def download(wheels: Path) -> Path:
    """All that the installation will ask the registry for, fetched before the clock starts."""
    quiet = ["--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
    pip = [sys.executable, "-m", "pip", "download", *quiet]
    subprocess.run([*pip, "-c", "constraints.txt", ".[lab,test]", "setuptools>=77"], cwd=ROOT, check=True)
    subprocess.run([*pip, "--no-deps", "-r", "tests/ipywidgets7.txt"], cwd=ROOT, check=True)
    return wheels


def timed(clone: Path, wheels: Path) -> dict:
    """Seconds of each part, and of all."""
    offline = {**environment(), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    python = str(clone / ".venv" / "bin" / "python")
    parts = {
        "clone": (["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT),
        "install": (["make", "install", f"PYTHON={sys.executable}"], clone),
        "first pictures": ([python, "-m", "tools.run_notebooks", NOTEBOOK], clone),
    }
    seconds = {}
    for name, (command, place) in parts.items():
        if name == "first pictures":
            cut_after(clone / NOTEBOOK, PICTURE)
        started = time.perf_counter()
        subprocess.run(command, cwd=place, env=offline, preexec_fn=two_cores, check=True)
        seconds[name] = time.perf_counter() - started
    return {"seconds": seconds, "total": sum(seconds.values())}


def cut_after(path: Path, cell: str) -> None:
    """Leave out of a notebook what follows the cell of this id."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    names = [each.id for each in notebook.cells]
    notebook.cells = notebook.cells[: names.index(cell) + 1]
    nbformat.write(notebook, path)


def bars(result: dict) -> list[Bar]:
    """At most three minutes."""
    return [Bar("seconds from clone to first trained butterflies", result["total"], "at most", 180)]


def draw(result: dict):
    """Seconds of each part."""
    seconds = {"all": result["total"], **result["seconds"]}
    return bar_charts({"from clone to first pictures": seconds}, "seconds")
