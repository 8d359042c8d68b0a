"""What the tools share: where the notebooks are, how they are read, cleaned and written."""

import os
import shutil
import sys
from pathlib import Path

import nbformat

from tools import links
from tools.files import ROOT, write_text

FOLDERS = ("unit*", "hackathon")
VIEW_MIME = "application/vnd.jupyter.widget-view+json"
STATE_MIME = "application/vnd.jupyter.widget-state+json"
CELL_METADATA = ("tags", "jupyter", "cellView")

METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def find_notebooks(names=(), root=ROOT):
    """Return the paths of the course's notebooks in reading order, or of those named.

    Raises SystemExit with one sentence when a name is no notebook, or when there are none.
    """
    if names:
        return [existing(Path(name), root) for name in names]
    paths = [path for folder in FOLDERS for path in sorted(Path(root).glob(folder + "/*.ipynb"))]
    return paths or sys.exit(f"There are no notebooks in {root}: unit1/*.ipynb and so on were expected.")


def find_translated(root=ROOT):
    """Return the paths of the translated notebooks, which are written by `make i18n`."""
    languages = links.load(root)["languages"]
    patterns = [f"{folder}/{language}/*.ipynb" for folder in FOLDERS for language in languages]
    return sorted(path for pattern in patterns for path in Path(root).glob(pattern))


def existing(path, root):
    """Return `path`, resolved from here or from the course's folder, if it is a notebook."""
    for candidate in (path, Path(root) / path):
        if candidate.suffix == ".ipynb" and candidate.is_file():
            return candidate.resolve()
    sys.exit(f"{path} is not a notebook: name one as NOTEBOOK=unit1/01_introduction_to_diffusers.ipynb")


def short_name(path, root=ROOT):
    """Return `path` relative to the course's folder, with forward slashes, where it lies in it."""
    path, root = Path(path).resolve(), Path(root).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def read(path):
    """Return the notebook at `path` (nbformat 4)."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises a different type for each way to be broken
        sys.exit(f"{path} is not a readable notebook ({error}): restore it with git checkout -- {path}")


def write(notebook, path):
    """Write `notebook` to `path` in one step."""
    write_text(nbformat.writes(notebook) + "\n", path)


def clean(notebook):
    """Return a copy of `notebook` with the course's metadata and without what only a live kernel can show."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_widget_view(output)]
    return notebook


def is_widget_view(output):
    """Return whether `output` shows a live widget, which a saved page cannot."""
    return VIEW_MIME in output.get("data", {})


def text_of(value):
    """Return a notebook's multi-line value (a string, or a list of lines) as one string."""
    return value if isinstance(value, str) else "".join(value)


def empty_folder(path):
    """Make `path` an empty folder and return it."""
    path = Path(path)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def kernel_environment(**more):
    """Return the environment for a kernel: this Python's commands first, nobody's personal settings."""
    environment = dict(os.environ)
    for name in ("MPLBACKEND", "PYTHONPATH", "PYTHONSTARTUP"):
        environment.pop(name, None)
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment.get("PATH", "")
    environment["IPYTHONDIR"] = str(ROOT / "build" / "ipython")
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    environment["PYTHONWARNINGS"] = "error:Glyph:UserWarning"  # a letter that the font of a figure lacks
    return {**environment, **more}


def saved_scale():
    """Return the environment in which saved outputs are made: `mini`, on the CPU, in English."""
    return {"COURSE_SCALE": "mini", "CUDA_VISIBLE_DEVICES": "", "COURSE_LANG": "en"}
