"""Notebook hygiene: what a notebook's own file can tell about its state.

python -m tools.hygiene [NOTEBOOK ...]
"""

import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat.v4.rwbase import rejoin_lines
from nbformat.validator import iter_validate

from tools import links, notebooks

LONGEST_CELL_LINES = 25
LARGEST_MB = 3.0
FEWEST_EXERCISES = 3
MACHINE_PATH = re.compile(r"/(?:work|root|home|tmp)/[A-Za-z0-9_.]|[A-Z]:\\\\?Users\\")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(\s*<?([^)\s>]+)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
ALT = re.compile(r"\balt\s*=\s*([\"'])\s*\S.*?\1", re.IGNORECASE | re.DOTALL)
SOURCE = re.compile(r"\b(?:src|href)\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*<?([^)\s>]+)")
FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.IGNORECASE | re.DOTALL)
HINTS, SOLUTIONS = (
    tuple(phrases[word] for phrases in links.load()["languages"].values()) for word in ("hint", "solution")
)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def main(argv=None):
    """Check the notebooks; print what is wrong; return 1 if anything is, else 0."""
    names = sys.argv[1:] if argv is None else argv
    paths = notebooks.find_notebooks(names) + ([] if names else notebooks.find_translated())
    found = [f"{notebooks.short_name(path)}: {problem}" for path in paths for problem in problems(path)]
    found += [] if names else readme_problems(notebooks.ROOT)
    print("\n".join(found) if found else f"{len(paths)} notebooks are clean.")
    return 1 if found else 0


def problems(path):
    """Return what is wrong with the notebook at `path`, one sentence each."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        notebook = rejoin_lines(nbformat.from_dict(json.loads(text)))
        found = file_problems(notebook, text)
    except (
        ValueError,
        AttributeError,
        KeyError,
    ) as error:  # no JSON, or JSON without the parts of a notebook
        return [f"not a valid notebook: {error}"]
    invalid = next(iter_validate(notebook, version=4, version_minor=5), None)
    if invalid:
        return [*found, f"not a valid notebook: {invalid.message}"]
    cells = notebook.cells
    return [
        *found,
        *run_problems(cells),
        *secret_problems(cells),
        *picture_problems(cells),
        *exercise_problems(cells),
        *link_problems(cells, Path(path).parent),
    ]


def file_problems(notebook, text):
    """Return what is wrong with the file as a whole: format, ids, metadata, size."""
    found = []
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        found.append(f"format {notebook.nbformat}.{notebook.nbformat_minor}, expected 4.5: make notebooks")
    ids = [cell.get("id") for cell in notebook.cells]
    found += [
        f"the cell id {name} stands {ids.count(name)} times" for name in set(ids) if ids.count(name) > 1
    ]
    if "widgets" in notebook.metadata:
        found.append("metadata.widgets makes GitHub show 'Invalid Notebook': make notebooks")
    elif notebook.metadata != notebooks.METADATA:
        found.append("its metadata is not the course's (tools/notebooks.py, METADATA): make notebooks")
    for cell in notebook.cells:
        extra = sorted(set(cell.metadata) - set(notebooks.CELL_METADATA))
        found += [f"cell {cell.id} has metadata {', '.join(extra)}: make notebooks"] if extra else []
    if len(text) > LARGEST_MB * 1e6:
        found.append(
            f"{len(text) / 1e6:.1f} MB, expected less than {LARGEST_MB:g}: fewer or smaller pictures"
        )
    return found


def run_problems(cells):
    """Return what tells that the saved outputs are not from one clean run."""
    found = []
    codes = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in codes]
    if counts != list(range(1, len(counts) + 1)):
        found.append("its saved outputs are not from one run from top to bottom: make notebooks")
    for cell in codes:
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"cell {cell.id} holds an error")
        if any(notebooks.is_widget_view(output) for output in cell.outputs):
            found.append(f"cell {cell.id} holds a live widget, which a saved page can't show: make notebooks")
        if len(cell.source.splitlines()) > LONGEST_CELL_LINES:
            found.append(f"cell {cell.id} has more than {LONGEST_CELL_LINES} lines")
    return found


def secret_problems(cells):
    """Return the cells that show a path of some machine, or a token."""
    found = []
    for cell in cells:
        texts = [cell.source, *(text for _, _, text in shown(cell) if text)]
        for pattern, name in (
            (MACHINE_PATH, "a path of somebody's machine"),
            (TOKEN, "something like a token"),
        ):
            match = next((match for match in map(pattern.search, texts) if match), None)
            if match:
                found.append(f"cell {cell.id} shows {name} ({match[0][:12]}...)")
    return found


def shown(cell):
    """Yield (mime type, its metadata, its text or "" for bytes) for all that `cell` shows."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield "text/plain", {}, notebooks.text_of(output.text)
        for mime, value in output.get("data", {}).items():
            text = "" if mime.startswith("image/") and mime != "image/svg+xml" else as_text(value)
            yield mime, output.metadata.get(mime, {}), text


def as_text(value):
    """Return the text of one entry of an output: a string, lines, or JSON."""
    return json.dumps(value) if isinstance(value, dict) else notebooks.text_of(value)


def picture_problems(cells):
    """Return the pictures that have no alt text."""
    found = []
    for cell in cells:
        if cell.cell_type == "markdown":
            found += [f"cell {cell.id}: {text}" for text in without_alt(cell.source)]
        for mime, metadata, text in shown(cell):
            if mime.startswith("image/") and not str(metadata.get("alt", "")).strip():
                found.append(f"cell {cell.id}: its {mime} output has no alt text in its metadata")
            if mime == "text/html":
                found += [f"cell {cell.id}, output: {text}" for text in without_alt(text, markdown=False)]
    return found


def without_alt(text, markdown=True):
    """Return a sentence for each picture in `text` that has no alt text."""
    text = CODE.sub("", text) if markdown else text
    images = MARKDOWN_IMAGE.findall(text) if markdown else []
    found = [f"the picture {name} has no alt text" for alt, name in images if not alt.strip()]
    return found + [f"{tag[:60]} has no alt text" for tag in HTML_IMAGE.findall(text) if not ALT.search(tag)]


def exercise_problems(cells):
    """Return what is missing at the exercises: their number, the check, the hints, the solution."""
    places = [i for i, cell in enumerate(cells) if "exercise" in cell.metadata.get("tags", [])]
    found = []
    if len(places) < FEWEST_EXERCISES:
        found.append(f"{len(places)} exercises (cells tagged exercise), expected at least {FEWEST_EXERCISES}")
    for place in places:
        found += [f"exercise {cells[place].id}: {text}" for text in around_exercise(cells, place)]
    return found


def around_exercise(cells, place):
    """Return what is missing at the exercise `cells[place]` and in the Markdown that follows it."""
    found = []
    lines = [line.strip() for line in cells[place].source.splitlines() if line.strip()]
    if not lines or not lines[-1].startswith("check."):
        found.append("its last line does not call a check")
    following = []
    for cell in cells[place + 1 :]:
        if cell.cell_type != "markdown":
            break
        following.append(cell.source)
    summaries = [summary.lower() for summary, body in FOLDED.findall("\n".join(following)) if body.strip()]
    hints = sum(any(word in summary for word in HINTS) for summary in summaries)
    if hints < 2:
        found.append(
            f"{hints} folded hints follow it, expected at least 2 (<details><summary>Hint 1</summary>)"
        )
    if not any(word in summary for word in SOLUTIONS for summary in summaries):
        found.append("no folded solution follows it (<details><summary>Solution</summary>)")
    return found


def link_problems(cells, folder):
    """Return the relative links, in Markdown cells, that lead nowhere."""
    sources = [(f"cell {cell.id}: ", cell.source) for cell in cells if cell.cell_type == "markdown"]
    return [place + text for place, source in sources for text in dead_links(source, folder)]


def dead_links(text, folder):
    """Return a sentence for each relative link in Markdown `text` that leads nowhere from `folder`."""
    text = CODE.sub("", text)
    targets = [
        *LINK.findall(text),
        *(name for _, name in MARKDOWN_IMAGE.findall(text)),
        *SOURCE.findall(text),
    ]
    relative = [
        target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:|#|//", target, re.IGNORECASE)
    ]
    paths = {target: unquote(target.split("#")[0].split("?")[0]) for target in relative}
    return [
        f"the link {target} leads nowhere" for target, path in paths.items() if not (folder / path).exists()
    ]


def readme_problems(root):
    """Return the pictures without alt text and the dead links of the READMEs."""
    found = []
    for path in sorted([*root.glob("README*.md"), *root.glob("*/README.md"), *root.glob("*/*/README.md")]):
        name = path.relative_to(root)
        if name.parts[0] not in ("build", ".venv"):
            text = path.read_text(encoding="utf-8")
            found += [f"{name}: {problem}" for problem in without_alt(text) + dead_links(text, path.parent)]
    return found


if __name__ == "__main__":
    sys.exit(main())
