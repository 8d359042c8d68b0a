"""The tools find what is planted and mend what they can: no network, no training."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from copy import deepcopy
from importlib.metadata import distributions
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbformat.v4.rwbase import split_lines

from tools import alone, bootstrap, hygiene, lab, links, notebooks, run_notebooks

NAME = "unit1/toy.ipynb"
ADDRESS = "https://" + "github.com/{}"  # in two parts, so that the link tools leave this file alone
INSTALL = "git+" + ADDRESS + "@{}"


# --- installation ---------------------------------------------------------------------------------


def test_the_python_of_the_tests_is_new_enough():
    assert bootstrap.check_python(sys.version_info[:3]) is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_an_old_python_is_told_what_to_do(version):
    with pytest.raises(bootstrap.Problem, match=r"3.11 or newer: install one from https://www.python.org"):
        bootstrap.check_python(version, works=lambda name: False)
    with pytest.raises(bootstrap.Problem, match=r"PYTHON=python3.12, which is installed"):
        bootstrap.check_python(version, works=lambda name: name == "python3.12")


def test_the_bootstrap_parses_on_old_pythons():
    import ast

    source = (notebooks.ROOT / "tools" / "bootstrap.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Nonlocal)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, new)]
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.cause]


def test_a_full_disk_is_found_before_the_installation(tmp_path):
    usage = namedtuple("usage", "total used free")
    with pytest.raises(bootstrap.Problem, match=r"too full: 1.2 GB are free .* needs about 3 GB; free some"):
        bootstrap.check_disk(str(tmp_path), 3.0, disk_usage=lambda path: usage(0, 0, 1.2e9))
    assert bootstrap.check_disk(str(tmp_path), 3.0, disk_usage=lambda path: usage(0, 0, 4e9)) is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "is full",
        ),
        (
            "WARNING: Retrying ... NewConnectionError(...)\nERROR: No matching distribution found for torch",
            "registry can",
        ),
        (
            "ReadTimeoutError(\"HTTPSConnectionPool(host='pypi.org', port=443): Read timed out.\")",
            "registry can",
        ),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.13.0", "offers no torch==2.13.0 for Python 3"),
        ("ERROR: ResolutionImpossible: for help visit https://pip.pypa.io", "No set of versions fits"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "writable"),
        ("something else\nERROR: the last line", "status 2, and its last line was: ERROR: the last line"),
    ],
)
def test_pip_failures_become_one_sentence(said, told, capsys):
    def popen(command, **_):
        lines = [line.encode() + b"\n" for line in said.splitlines()]
        return SimpleNamespace(stderr=iter(lines), wait=lambda: 2)

    with pytest.raises(bootstrap.Problem, match="run this again|PIP_ARGS") as problem:
        bootstrap.run_pip("python", ["install"], ".", popen=popen)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_python_without_venv_is_told_what_to_do(tmp_path):
    said = b"The virtual environment was not created successfully because ensurepip is not available."
    with pytest.raises(bootstrap.Problem, match="python3-venv"):
        bootstrap.make_venv(str(tmp_path), run=lambda *_, **__: SimpleNamespace(returncode=1, stdout=said))


OTHERS = os.environ.get("COURSE_NEWEST") or os.environ.get("COURSE_OLDEST")


@pytest.mark.skipif(bool(OTHERS), reason="other versions than the pinned ones are installed")
def test_the_pinned_versions_install_on_every_python_from_the_oldest_on():
    from packaging.specifiers import SpecifierSet

    text = (notebooks.ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    for package in distributions():
        if f"{package.name}=={package.version}".lower().replace("_", "-") in text.splitlines():
            allowed = SpecifierSet(package.metadata.get("Requires-Python") or "")
            assert {"3.11.0", "3.12.0", "3.13.0"} == set(allowed.filter(["3.11.0", "3.12.0", "3.13.0"])), (
                package.name
            )


def pip(command):
    """Return which of the two installations `command` is."""
    return "widgets" if "--target" in command else "pip"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A course's folder in which installing only counts: (root, list of what was done)."""
    done = []
    (tmp_path / "tests").mkdir()
    for name in bootstrap.KEYED_FILES:
        (tmp_path / name).write_text("one")

    def make_venv(venv):
        done.append("venv")
        (tmp_path / ".venv").mkdir(exist_ok=True)

    monkeypatch.setattr(bootstrap, "make_venv", make_venv)
    monkeypatch.setattr(bootstrap, "run_pip", lambda python, command, root: done.append(pip(command)))
    monkeypatch.setattr(bootstrap, "check_disk", lambda *_: None)
    version = ".".join(map(str, sys.version_info[:2]))
    monkeypatch.setattr(bootstrap, "venv_version", lambda venv: version if done else None)
    return tmp_path, done


def test_nothing_is_installed_twice(house):
    root, done = house
    for _ in range(3):
        bootstrap.install(str(root), [])
    assert done == ["venv", "pip", "widgets"]


def test_new_requirements_are_installed_into_the_same_environment(house):
    root, done = house
    bootstrap.install(str(root), [])
    (root / "requirements.txt").write_text("two")
    bootstrap.install(str(root), [])
    assert done == ["venv", "pip", "widgets", "pip", "widgets"]


def test_half_an_installation_is_done_again_from_nothing(house, monkeypatch):
    root, done = house

    def fails(*_):
        done.append("broken pip")
        raise bootstrap.Problem("no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run_pip", fails)
        with pytest.raises(bootstrap.Problem):
            bootstrap.install(str(root), [])
    bootstrap.install(str(root), [])
    assert done == ["venv", "broken pip", "venv", "pip", "widgets"]


def test_a_finished_environment_of_another_python_is_kept_unless_a_python_is_named(house, monkeypatch):
    root, done = house
    monkeypatch.setattr(bootstrap, "venv_version", lambda venv: "3.99" if done else None)
    bootstrap.install(str(root), [])
    stamp = root / ".venv" / "installed.txt"
    stamp.write_text(bootstrap.stamp_key(str(root), "3.99"))
    bootstrap.install(str(root), [], keep_python=True)
    assert done == ["venv", "pip", "widgets"]
    bootstrap.install(str(root), [], keep_python=False)
    assert done == ["venv", "pip", "widgets"] * 2


@pytest.fixture
def no_weekly_run(monkeypatch):
    """As anybody runs it: this may be the weekly run itself."""
    for name in ("COURSE_NEWEST", "COURSE_OLDEST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_weekly_run")
def test_the_weekly_run_takes_the_newest_versions(monkeypatch):
    assert "-c" in bootstrap.pip_command(".", [])
    monkeypatch.setenv("COURSE_NEWEST", "1")
    command = bootstrap.pip_command(".", ["--pre"])
    assert "-c" not in command and "--upgrade" in command and command[-1] == "--pre"


@pytest.mark.usefixtures("no_weekly_run")
def test_another_weekly_run_takes_the_oldest_versions(monkeypatch):
    monkeypatch.setenv("COURSE_OLDEST", "1")
    command = bootstrap.pip_command(".", [])
    assert command[command.index("-c") + 1].endswith("oldest.txt")
    ranges = (notebooks.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = (notebooks.ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    lowest = {line.split(",")[0].replace(">=", "==") for line in ranges if line[:1].isalpha()}
    assert lowest <= set(pins)


def test_the_pinned_versions_are_within_the_ranges():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def lines(name):
        text = (notebooks.ROOT / name).read_text(encoding="utf-8")
        return [Requirement(line) for line in text.splitlines() if line and line[0] != "#"]

    pinned = {canonicalize_name(line.name): str(line.specifier)[2:] for line in lines("constraints.txt")}
    assert all("+" not in version for version in pinned.values()), "a local tag, which no registry has"
    for line in lines("requirements.txt"):
        assert line.specifier.contains(pinned[canonicalize_name(line.name)]), line


def test_the_lab_opens_no_browser_without_a_screen():
    assert "--no-browser" in lab.lab_command(8888, screen=False, as_root=True)
    assert "--allow-root" in lab.lab_command(8888, screen=False, as_root=True)
    assert not {"--no-browser", "--allow-root"} & set(lab.lab_command(8888, screen=True, as_root=False))
    assert not lab.has_screen({}, "linux") and lab.has_screen({}, "darwin")


# --- launch links ---------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path):
    """A small course with a README and a notebook whose links are not written yet."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "unit1").mkdir()
    shutil.copy(links.ROOT / links.TABLE, tmp_path / links.TABLE)
    block = f"<!-- launch: {NAME} --> <!-- /launch -->"
    clone = "git clone " + ADDRESS.format("someone/else")
    (tmp_path / "README.md").write_text(f"# Course\n\n| a | {block} |\n\n    {clone}\n")
    install = "%pip install -q " + INSTALL.format("someone/else", "old")
    cells = [
        new_markdown_cell(f"# Toy\n\n{block.replace('--> <', '-->' + chr(10) + '<')}"),
        new_code_cell(install),
    ]
    notebooks.write(new_notebook(cells=cells), tmp_path / NAME)
    return tmp_path


def links_main(root, *arguments):
    return links.main([*arguments, "--root", str(root)])


def test_links_are_checked_written_and_then_agree(course, capsys):
    assert links_main(course, "--check") == 1
    said = capsys.readouterr().out
    for expected in (
        "README.md: the launch links of",
        f"{NAME}: the launch links of",
        "someone/else@old is not",
    ):
        assert expected in said
    assert links_main(course, "--write") == 0
    assert links_main(course, "--check") == 0
    readme, table = (course / "README.md").read_text(), links.load(course)
    assert all(f"[{host['name']}](" in readme for host in table["hosts"])
    assert len(readme.splitlines()) == 5, "a block within a row stays within the row"
    assert links_main(course, "--write") == 0
    assert readme == (course / "README.md").read_text(), "writing twice changes nothing"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("blob/main/", "blob/master/", "the launch links of"),
        (
            "/launch -->",
            "/launch --> [x](https://colab.research.google.com/github/a/b)",
            "outside a launch block",
        ),
        (f"launch: {NAME}", "launch: unit1/none.ipynb", "does not exist"),
    ],
)
def test_a_planted_disagreement_is_found(course, capsys, old, new, told):
    links_main(course, "--write")
    readme = course / "README.md"
    readme.write_text(readme.read_text().replace(old, new))
    capsys.readouterr()
    assert links_main(course, "--check") == 1
    assert told in capsys.readouterr().out


def test_one_command_moves_the_course(course):
    links_main(course, "--write")
    assert links_main(course, "--repository", "ada/diffusion", "--branch", "stable/1") == 0
    assert links_main(course, "--check") == 0
    for name in ("README.md", NAME):
        text = (course / name).read_text()
        assert "your_name" not in text and "ada/diffusion" in text
    assert INSTALL.format("ada/diffusion", "stable/1") in (course / NAME).read_text()
    assert "/v2/gh/ada/diffusion/stable%2F1?" in (course / "README.md").read_text()


@pytest.mark.parametrize("wrong", [["--repository", "no-slash"], ["--branch", "two words"]])
def test_an_address_that_is_none_changes_nothing(course, wrong):
    before = (course / links.TABLE).read_text()
    with pytest.raises(SystemExit, match="expected"):
        links_main(course, *wrong)
    assert before == (course / links.TABLE).read_text()


def test_the_links_of_this_course_agree():
    assert links.problems(links.ROOT) == []


# --- hygiene --------------------------------------------------------------------------------------

FOLDED = "<details><summary>{}</summary>\n\ntext\n\n</details>\n"


def exemplary():
    """Return a notebook with which nothing is wrong."""
    after = "".join(FOLDED.format(title) for title in ("Hint 1", "Hint 2", "Solution"))
    cells = [new_markdown_cell("# Toy\n\n![a wing](wing.png) and [a link](wing.png#x)")]
    for number in range(1, 4):
        exercise = new_code_cell(f"answer = {number}\ncheck.answer(answer)", metadata={"tags": ["exercise"]})
        cells += [exercise, new_markdown_cell(after)]
    picture = new_output(
        "display_data",
        {"image/png": "AAAA", "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": "a wing"}},
    )
    cells.append(new_code_cell("draw()", outputs=[picture]))
    codes = [cell for cell in cells if cell.cell_type == "code"]
    for number, cell in enumerate(codes, 1):
        cell.execution_count = number
    return notebooks.clean(new_notebook(cells=cells))


def found_in(notebook, folder):
    (folder / "wing.png").write_bytes(b"")
    (folder / "toy.ipynb").write_text(json.dumps(split_lines(deepcopy(notebook))), encoding="utf-8")
    return "\n".join(hygiene.problems(folder / "toy.ipynb"))


def test_an_exemplary_notebook_is_clean(tmp_path):
    assert found_in(exemplary(), tmp_path) == ""


def plant_source(place, text):
    def plant(notebook):
        notebook.cells[place].source = text

    return plant


def plant_output(**output):
    def plant(notebook):
        notebook.cells[-1].outputs = [nbformat.from_dict(output)]

    return plant


def plant_metadata(**metadata):
    def plant(notebook):
        notebook.metadata.update(metadata)

    return plant


def same_ids(notebook):
    notebook.cells[1].id = notebook.cells[0].id


def html(text):
    return plant_output(output_type="display_data", metadata={}, data={"text/html": text})


PLANTED = {
    "holds an error": plant_output(output_type="error", ename="E", evalue="", traceback=[]),
    "GitHub show 'Invalid Notebook'": plant_metadata(widgets={}),
    "metadata is not the course's": plant_metadata(kernelspec={"name": "mine", "display_name": "Mine"}),
    "format 4.4": lambda notebook: notebook.update(nbformat_minor=4),
    "stands 2 times": same_ids,
    "from one run": lambda notebook: notebook.cells[-1].update(execution_count=9),
    "has metadata execution": lambda notebook: notebook.cells[-1].metadata.update(execution={}),
    "a path of somebody's machine": plant_output(
        output_type="stream", name="stdout", text="/" + "home/ada/x"
    ),
    "something like a token": plant_source(0, "hf" + "_" + "a" * 34),
    "more than 25 lines": plant_source(-1, "x = 1\n" * 26),
    "expected less than 3": plant_output(output_type="stream", name="stdout", text="x" * 3_100_000),
    "the picture wing.png has no alt": plant_source(0, "![](wing.png)"),
    '<img src="wing.png"> has no alt': plant_source(0, '<img src="wing.png">'),
    "output: <img src='x'> has no alt": html("<img src='x'>"),
    "image/png output has no alt": plant_output(
        output_type="display_data", metadata={}, data={"image/png": "AAAA", "text/plain": ""}
    ),
    "a live widget": plant_output(output_type="display_data", metadata={}, data={notebooks.VIEW_MIME: {}}),
    "does not call a check": plant_source(1, "answer = 1"),
    "1 folded hints": plant_source(2, FOLDED.format("Hint") + FOLDED.format("Solution")),
    "no folded solution": plant_source(2, FOLDED.format("Hint 1") + FOLDED.format("Hint 2")),
    "2 exercises": lambda notebook: notebook.cells[1].metadata.clear(),
    "none.md leads nowhere": plant_source(0, "[a](none.md)"),
}


@pytest.mark.parametrize("told", PLANTED)
def test_each_planted_defect_is_found(tmp_path, told):
    notebook = exemplary()
    PLANTED[told](notebook)
    assert told in found_in(notebook, tmp_path)


def test_a_file_that_is_no_notebook_is_reported(tmp_path):
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    assert "not a valid notebook" in hygiene.problems(tmp_path / "half.ipynb")[0]


# --- runs -----------------------------------------------------------------------------------------

CALLBACK = """import ipywidgets
def draw(t):
    raise ValueError("broken dial")
ipywidgets.interact(draw, t=(0, 3));"""


def toy(folder, name, *sources):
    """Write a notebook with these code cells; return its path."""
    path = folder / f"{name}.ipynb"
    notebooks.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def run_main(tmp_path, *arguments):
    return run_notebooks.main([*map(str, arguments), "--build", str(tmp_path / "build")])


def test_a_run_is_measured_reported_and_saved_only_if_asked(tmp_path, capsys):
    good = toy(tmp_path, "good", "x = 1", "print(x + 1)", "import os; os.listdir()")
    before = good.read_bytes()
    assert run_main(tmp_path, good) == 0
    assert good.read_bytes() == before
    (record,) = json.loads((tmp_path / "build" / "run.json").read_text())
    assert set(record) == {"notebook", "seconds", "peak_rss_mb", "ok"}
    assert record["ok"] is True and record["notebook"] == "good.ipynb" and record["seconds"] > 0
    assert "3/3" in capsys.readouterr().out
    assert "<html" in (tmp_path / "build" / "html" / "good.html").read_text()
    assert run_main(tmp_path, "--save", good) == 0
    saved = notebooks.read(good)
    assert saved.cells[1].outputs[0].text == "2\n" and saved.metadata == notebooks.METADATA
    assert saved.cells[2].outputs[0].data["text/plain"] == "[]", "it ran in an empty folder"
    assert [cell.execution_count for cell in saved.cells] == [1, 2, 3]


def test_failures_are_shown_and_do_not_stop_the_next_notebook(tmp_path, capsys):
    bad = toy(tmp_path, "bad", "x = 1", "1 / 0", "print('never')")
    dial = toy(tmp_path, "dial", CALLBACK)
    before = bad.read_bytes()
    assert run_main(tmp_path, "--save", "--cell-seconds", 60, bad, dial) == 1
    records = json.loads((tmp_path / "build" / "run.json").read_text())
    assert [record["ok"] for record in records] == [False, False]
    said = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in said and "ValueError: broken dial" in said
    assert bad.read_bytes() == before, "the outputs of a failed run are not saved"


def test_an_edit_during_the_run_is_not_overwritten(tmp_path):
    path = toy(tmp_path, "edited", "x = 1")
    assert "edited during the run" in run_notebooks.save(notebooks.read(path), path, b"as it was")[0]


def test_a_name_that_is_no_notebook_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="is not a notebook: name one as NOTEBOOK="):
        run_main(tmp_path, "unit1/none.ipynb")


def test_memory_counts_what_a_process_has_used():
    code = "x = bytearray(200_000_000); print('up', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    measured = run_notebooks.tree_mb(child.pid)
    child.communicate(b"\n")
    assert measured > 200
    assert run_notebooks.tree_mb(child.pid) == 0


# --- alone ----------------------------------------------------------------------------------------

SHOWN = """import ipywidgets
from IPython.display import clear_output, display
def draw(t):
    print("t is", t)
ipywidgets.interact(draw, t=(0, 3));
for step in range(3):
    clear_output(wait=True)
    print(step)
handle = display("first", display_id=True)
handle.update("last")"""


def test_a_notebook_installs_the_package_from_its_address_and_shows_what_was_saved(tmp_path, capfd):
    table = links.load()
    address = INSTALL.format(table["repository"], table["branch"])
    install = f"try:\n    import toy_package\nexcept ImportError:\n    %pip install -q --no-deps {address}\n"
    path = toy(tmp_path, "toy", install + "    import toy_package\nprint(toy_package.WORD)", SHOWN)
    house, build = tmp_path / "house", notebooks.empty_folder(tmp_path / "alone")
    (house / "toy_package").mkdir(parents=True)
    (house / "toy_package" / "__init__.py").write_text("WORD = 'ready'\n")
    (house / "pyproject.toml").write_text("[project]\nname = 'toy_package'\nversion = '1'\n")
    config = alone.snapshot(house, build, table)
    site = alone.dependencies(alone.Path(alone.sysconfig.get_path("purelib")), build / "site")
    python = alone.environment(build / "venv", site)
    alone.kernel(build / "jupyter", python, config)
    notebook = notebooks.read(path)
    notebook.cells[0].execution_count, notebook.cells[1].execution_count = 1, 2
    notebook.cells[0].outputs = [new_output("stream", name="stdout", text="ready\n")]
    shown = new_output("display_data", {"text/plain": "'last'"})
    notebook.cells[1].outputs = [new_output("stream", name="stdout", text="2\n"), shown]
    notebooks.write(notebook, path)
    assert alone.nbval(path, build / "jupyter")
    assert str(build) in alone.ask(python, "import toy_package; print(toy_package.__file__)")
