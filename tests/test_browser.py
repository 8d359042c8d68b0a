"""JupyterLab in a real browser: the widgets of every notebook, and what tools.browser must find."""

import os

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import browser, notebooks

pytestmark = [
    pytest.mark.skipif(browser.find() is None, reason=browser.MISSING),
    pytest.mark.skipif("COURSE_BROWSER" not in os.environ, reason="COURSE_BROWSER=1 asks for these: minutes"),
]

PLANTED = [
    "import ipywidgets\nfrom course_utils import explore, show\nfrom course_utils.explore import frame",
    """def broken(number):
    if number > 2:
        raise ValueError(f"a drawing of {number} is too much")
    return show.Picture(2, 1, f"nothing, {number} times")
explore.panel(broken, {"number": frame.slider("broken", 0, 5, 1)})""",
    """quiet = frame.choice("quiet", ["one", "two", "three"], "one")
quiet.tabbable = False
large = explore.panel(lambda n: show.Picture(3, 1, f"quiet {n}"), {"n": quiet})
large.children[1].layout.align_self = "stretch"
large""",
    """nameless = frame.choice("", ["one", "two", "three"], "one")
explore.panel(lambda n: show.Picture(3, 1, f"nameless {n}"), {"n": nameless})""",
    "ipywidgets.IntSlider(description='alone')",
    "display({'application/vnd.jupyter.widget-view+json': {'model_id': 'none'}}, raw=True)",
    "from IPython.display import HTML\nHTML('<img src=\"http://192.0.2.1/pixel.png\">')",
    "1 / 0",
]
TOLD = (
    "Cannot draw this: a drawing of 5 is too much",
    "quiet: the Tab key does not reach it",
    "the Tab key comes to a control without a name",
    "the picture is shown larger than it is",
    "a control outside of a panel",
    "Error displaying widget",
    "it asked for http://192.0.2.1/pixel.png",
    "ZeroDivisionError: division by zero",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(folder):
    with browser.jupyter(folder, COURSE_REHEARSAL="4") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as chromium:
        yield chromium


@pytest.mark.parametrize("path", notebooks.find_notebooks(), ids=notebooks.short_name)
def test_every_control_of_a_rehearsed_notebook_draws_is_reached_and_named(chromium, address, folder, path):
    notebook, name = notebooks.read(path), notebooks.short_name(path)
    browser.put(notebook, folder / name)
    moves, problems = browser.tried(chromium, address, name)
    assert problems == []
    assert moves or "explore." not in str(notebook)


def test_each_planted_defect_is_found(chromium, address, folder):
    cells = [new_code_cell(source) for source in PLANTED]
    browser.put(new_notebook(cells=cells, metadata=notebooks.METADATA), folder / "planted.ipynb")
    moves, problems = browser.tried(chromium, address, "planted.ipynb")
    assert [told for told in TOLD if told not in "\n".join(problems)] == []
    assert {move.control for move in moves} == {"broken", "quiet", ""}
