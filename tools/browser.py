"""Notebooks in a real browser: run them in JupyterLab, move every control of every widget, keep screenshots.

    python -m tools.browser [NOTEBOOK ...]

Fails on an error in an output, a widget that is not shown, a control that no key reaches or that has no name,
and a redraw that takes more than `REDRAW_SECONDS`. Writes `build/browser/`. Needs Chromium or Chrome.
"""

import argparse
import json
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools import lab, notebooks

BUILD = notebooks.ROOT / "build" / "browser"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "there is no Chromium and no Chrome here; on Debian, sudo apt-get install chromium brings one"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
ARGUMENTS += ["--enable-blink-features=ComputedAccessibilityInfo"]  # what a screen reader would say
SCRIPT = Path(__file__).with_suffix(".js")
HERE = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:")
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
FIELD = "input[type=text]"
ROWS = ":scope > .widget-box > .jupyter-widgets"  # of a panel: a control each
REDRAW_SECONDS = 1.5
PATIENCE_SECONDS = 120  # after this, nothing more is expected to happen
CELLS_SECONDS = 1800
SETTINGS = {  # draw all cells, not only those in view; ask nothing
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass(frozen=True)
class Move:
    """A control was moved, and so many seconds later a new picture stood there, or these words below it."""

    control: str
    seconds: float
    words: str


def main(argv=None):
    """Run the notebooks; return 1 if one has a problem, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", help="notebooks to run (default: all of the course)")
    options = parser.parse_args(argv)
    if find() is None:
        sys.exit(f"No notebook was run: {MISSING}.")
    paths = notebooks.find_notebooks(options.notebook)
    with tempfile.TemporaryDirectory() as folder, jupyter(Path(folder)) as address, chromium() as browser:
        failed = [path for path in paths if not reported(browser, address, Path(folder), path)]
    return 1 if failed else 0


def reported(browser, address, folder, path):
    """Try the notebook at `path` and print what came of it; return whether all is well."""
    name, start = notebooks.short_name(path), time.monotonic()
    put(notebooks.read(path), folder / name)
    moves, problems = tried(browser, address, name)
    problems += [f"{m.control}: {m.seconds:.1f} s for a redraw" for m in moves if m.seconds > REDRAW_SECONDS]
    slowest, seconds = max((move.seconds for move in moves), default=0), time.monotonic() - start
    print(f"{name}: {seconds:.0f} s, {len(moves)} redraws, the slowest {slowest:.2f} s")
    print("".join(f"    {problem}\n" for problem in problems), end="", flush=True)
    return not problems


def tried(browser, address, name):
    """Run the notebook `name` in JupyterLab and try its panels; return (moves, problems)."""
    page, foreign = new_page(browser)
    pictures = notebooks.empty_folder(BUILD / Path(name).with_suffix(""))
    run(page, address, name)
    moves, problems = [], page.evaluate("course.errors()")
    problems += [f"a control outside of a panel: {tag}" for tag in page.evaluate("course.strays()")]
    for number, panel in enumerate(page.locator(page.evaluate("course.PANEL")).all(), 1):
        problems += unreachable(page, panel) + panel.evaluate("course.blemishes")
        for row in panel.locator(ROWS).all():
            try:
                moves += moved(page, panel, row)
            except TimeoutError as error:
                problems.append(str(error))
            panel.screenshot(path=pictures / f"panel{number}-{label(row).replace(' ', '-')}.png")
    problems += [f"{m.control}: {m.words}" for m in moves if m.words.startswith("Cannot draw")]
    problems += page.evaluate("course.errors()") + [f"it asked for {url}" for url in foreign]
    page.screenshot(path=pictures / "end.png")
    page.context.close()
    return moves, list(dict.fromkeys(problems))


# The browser and the server


def find():
    """Return the path of a Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=ARGUMENTS)
        yield browser
        browser.close()


def new_page(browser, **settings):
    """Return an empty page, and the list of the addresses outside of this machine that it asks for."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **settings}).new_page()
    page.set_default_timeout(1000 * PATIENCE_SECONDS)
    page.add_init_script(path=SCRIPT)
    foreign = []
    for kind in ("request", "websocket"):
        page.on(kind, lambda asked: HERE.match(asked.url) or foreign.append(asked.url))
    return page, foreign


@contextmanager
def jupyter(folder, **environment):
    """JupyterLab on 127.0.0.1, serving `folder`, without anybody's settings; gives a notebook's address.

    environment: more variables for the kernels.
    """
    own = folder / ".jupyter"
    for name, settings in SETTINGS.items():
        notebooks.write_text(json.dumps(settings), own / f"settings/@jupyterlab/{name}.jupyterlab-settings")
    token, port = secrets.token_hex(24), lab.free_port()
    folders = {"JUPYTERLAB_SETTINGS_DIR": own / "settings", "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces"}
    folders |= {f"JUPYTER_{name}_DIR": own / name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {name: str(path) for name, path in folders.items()} | notebooks.saved_scale()
    environment = notebooks.kernel_environment(JUPYTER_TOKEN=token, **environment)
    command = [*lab.lab_command(port, screen=False, as_root=lab.is_root(), root=folder), "--ip=127.0.0.1"]
    command.append("--LabApp.expose_app_in_browser=True")  # as jupyterapp, which course.run asks
    with open(own / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        if not lab.answers(f"http://127.0.0.1:{port}/api", process, PATIENCE_SECONDS):
            raise RuntimeError(f"JupyterLab did not start: {(own / 'log').read_text()[-1000:]}")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}"
    finally:
        process.terminate()
        process.wait()


# A notebook


def put(notebook, path):
    """Write a copy of `notebook`, without outputs, to `path`."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebooks.write(notebook, path)


def run(page, address, name):
    """Open the notebook `name` and run all of its cells."""
    page.goto(address.format(name))
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate("void course.run()")
    page.wait_for_function("course.finished", timeout=1000 * CELLS_SECONDS)
    if page.evaluate("course.finished") != "well":
        raise RuntimeError(f"JupyterLab did not run {name}: {page.evaluate('course.finished')}")
    page.wait_for_selector(IDLE)


# A panel: controls, a picture and its words


def label(row):
    """Return what stands beside a control."""
    return row.locator(".widget-label").text_content()


def role(row):
    """Return as what a screen reader announces a control."""
    kinds = {"combobox": "select", "textbox": FIELD}
    return next((kind for kind, tag in kinds.items() if row.locator(tag).count()), "slider")


def moved(page, panel, row):
    """Move the control in `row` to both ends, a slider by its keys, and to the middle; return the moves."""
    moves = []
    for act in acts(row):
        value, look = row.evaluate("course.value"), panel.evaluate("course.look")
        start = time.monotonic()
        act()
        if row.evaluate("course.value") == value:
            continue
        if not panel.evaluate("course.redrawn", [look, PATIENCE_SECONDS]):
            raise TimeoutError(f"{label(row)}: no redraw at {row.evaluate('course.value')}")
        seconds, (_, words) = time.monotonic() - start, panel.evaluate("course.look")
        moves.append(Move(label(row), seconds, words))
        page.wait_for_selector(IDLE)
    return moves


def acts(row):
    """Return what brings a control to its end, to its start and to its middle; a field, to three texts."""
    field = row.locator(FIELD)
    if field.count():
        texts = ("a fish", "", "a bird")
        return [lambda text=text: (field.fill(text), field.press("Enter")) for text in texts]
    options = row.locator("option").count()
    if options:
        places = (options - 1, 0, options // 2)
        return [lambda i=i: row.locator("select").select_option(index=i) for i in places]
    keys = [lambda key=key: row.locator("[role=slider]").press(key) for key in ("End", "Home")]
    return [*keys, row.locator(".slider").click]


def unreachable(page, panel):
    """Return which controls of a panel the Tab key does not reach, or reaches without a name."""
    stops = tab_stops(page, panel)
    unnamed = ["the Tab key comes to a control without a name"] if any(not name for _, name in stops) else []
    rows = [(role(row), label(row)) for row in panel.locator(ROWS).all()]
    return unnamed + [
        f"{name}: the Tab key does not reach it" for kind, name in rows if (kind, name) not in stops
    ]


def tab_stops(page, panel):
    """Return (role, name) of what the Tab key comes to in a panel, from its cell on."""
    panel.evaluate("panel => panel.closest('.jp-Cell').focus()")
    stops = []
    for _ in range(100):
        page.keyboard.press("Tab")
        stop = panel.evaluate("course.focused")
        if stops and not stop:
            break
        stops += [tuple(stop)] if stop else []
    return stops


if __name__ == "__main__":
    sys.exit(main())
