"""Rehearse the notebooks: at full scale, with a Hub on this machine; at mini scale, with each cell run twice.

    python -m tests.rehearsal [NOTEBOOK ...]

The Hub's models have a few thousand random weights, and COURSE_REHEARSAL keeps every training short: nothing
is learned, but every cell runs. A token is planted, and everything that the runs write is searched for it.
"""

import copy
import os
import sys
from pathlib import Path

from tests.hub import Hub
from tests.published import make
from tools import notebooks, run_notebooks

BUILD = notebooks.ROOT / "build" / "rehearsal"
TOKEN = "hf_" + "planted" * 5
MOST = "4"  # steps, samples, pictures a batch


def main(names=None):
    """Run the notebooks; return 1 if one failed or the token leaked, else 0."""
    paths = notebooks.find_notebooks(sys.argv[1:] if names is None else names)
    build, hub = notebooks.empty_folder(BUILD), Hub(make, tokens={TOKEN: "learner"})
    os.environ |= hub.environment(build / "home") | {"HF_TOKEN": TOKEN}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "COURSE_REHEARSAL": MOST}
    failed = run("full", paths, build) + run("mini", [twice(path, build / "twice") for path in paths], build)
    leaks = [path for path in build.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    print("\n".join(f"The token stands in {path}." for path in leaks) or "No token in what was written.")
    return 1 if failed or leaks else 0


def run(scale, paths, build):
    """Run the notebooks at one scale; return 1 if one failed."""
    os.environ["COURSE_SCALE"] = scale
    return run_notebooks.main([*map(str, paths), "--build", str(build / scale)])


def twice(path, folder):
    """Write the notebook with each code cell doubled; return where."""
    notebook = notebooks.read(path)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            cells.append(copy.deepcopy(cell))
            cells[-1].id += "-again"
    notebook.cells = cells
    place = folder / Path(path).parent.name / Path(path).name
    notebooks.write(notebook, place)
    return place


if __name__ == "__main__":
    sys.exit(main())
