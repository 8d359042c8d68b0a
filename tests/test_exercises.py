"""Every exercise of every notebook: the stub is not accepted, the folded solution is."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted([*ROOT.glob("unit*/*.ipynb"), *ROOT.glob("hackathon/*.ipynb")])


def exercises():
    """One parameter an exercise: its imports, its stub, and the Markdown that follows."""
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        imports = next(c.source for c in cells if "imports" in c.metadata.get("tags", []))
        for cell, after in zip(cells, cells[1:], strict=False):
            if "exercise" in cell.metadata.get("tags", []):
                yield pytest.param(imports, cell, after.source, id=f"{path.stem}-{cell.id}")


def run(imports, code, check):
    """Run the code as in a fresh notebook, then its check: the verdict."""
    space = {}
    exec(imports, space)
    exec(code, space)
    return eval(check, space)


def last_line(source):
    """Source without its last expression, and that expression."""
    last = ast.parse(source).body[-1]
    return "\n".join(source.splitlines()[: last.lineno - 1]), ast.get_source_segment(source, last)


@pytest.mark.parametrize(("imports", "stub", "after"), list(exercises()))
def test_stub_fails_and_solution_passes(imports, stub, after):
    code, check = last_line(stub.source)
    assert check.startswith("check.")

    verdict = run(imports, code, check)
    assert not verdict, "the stub is accepted"
    assert len(verdict.message) > 20
    assert [output["data"]["text/plain"] for output in stub.outputs] == [repr(verdict)]

    assert len(re.findall(r"<summary>Hint \d", after)) >= 2
    solution = re.search(r"<summary>Solution</summary>\s*```python\n(.*?)```", after, re.S)[1]
    verdict = run(imports, f"{code}\n{solution}", check)
    assert verdict, verdict.message


def test_every_notebook_has_three_exercises():
    for path in NOTEBOOKS:
        tagged = [c for c in nbformat.read(path, 4).cells if "exercise" in c.metadata.get("tags", [])]
        assert len(tagged) >= 3, path
