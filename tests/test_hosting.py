"""The set-up line of a notebook, what it installs, and where a token comes from."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from course_utils import hosting

HEAVY = ("torch", "numpy", "diffusers", "transformers", "matplotlib", "ipywidgets", "datasets")


def test_import_of_the_package_loads_nothing_heavy():
    code = f"import sys, course_utils; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_submodules_load_when_first_used():
    code = "import course_utils; print(course_utils.profile.SCALES, hasattr(course_utils, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('mini', 'full') False"


def test_what_is_estimated_is_called_so(monkeypatch, capsys):
    monkeypatch.setattr(hosting, "missing_requirements", list)
    for scale in ("mini", "full"):
        monkeypatch.setattr(hosting.os, "environ", {"COURSE_SCALE": scale})
        hosting.start("unit1/00_quicktour")
        assert ("estimates, not measured" in capsys.readouterr().out) == (scale == "full")


@pytest.mark.parametrize(("scale", "other"), [("mini", "full"), ("full", "mini")])
def test_start_prints_one_line(monkeypatch, capsys, scale, other):
    monkeypatch.setattr(hosting.os, "environ", {"COURSE_SCALE": scale})
    monkeypatch.setattr(hosting, "missing_requirements", list)
    hosting.start("unit1/01_introduction_to_diffusers")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    cost = hosting.COSTS["unit1/01_introduction_to_diffusers"][scale]
    for words in (
        f"Scale: {scale}",
        f"{cost.minutes:g} minutes",
        f"{cost.download_mb} MB",
        f"COURSE_SCALE={other}",
    ):
        assert words in printed


def test_only_what_is_missing_is_asked_for(monkeypatch):
    wanted = ["torch>=2.6", "no-such-package-here>=1", 'ruff>=0.9; extra == "test"']
    monkeypatch.setattr(hosting.importlib.metadata, "requires", lambda name: wanted)
    assert hosting.missing_requirements() == ["no-such-package-here>=1"]


def test_installing_pins_what_must_not_be_touched(monkeypatch):
    seen = {}

    def pip(command, **_):
        seen["command"], seen["pins"] = command, Path(command[command.index("-c") + 1]).read_text()
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(hosting.subprocess, "run", pip)
    hosting._install(["no-such-package-here>=1"])
    assert seen["command"][-1] == "no-such-package-here>=1"
    for name in ("torch", "numpy", "ipywidgets"):
        assert f"{name}=={hosting.importlib.metadata.version(name)}\n" in seen["pins"]


def test_nothing_missing_means_no_pip(monkeypatch):
    monkeypatch.setattr(hosting.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    hosting._install([])


def test_a_failed_installation_says_what_to_do(monkeypatch):
    failed = types.SimpleNamespace(returncode=1, stderr="no network")
    monkeypatch.setattr(hosting.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="no network.*check the network"):
        hosting._install(["something"])


def test_a_token_comes_from_the_environment_first(monkeypatch):
    userdata = types.SimpleNamespace(get=lambda name: f"colab {name}")
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(userdata=userdata))
    monkeypatch.setenv("HF_TOKEN", "environment")
    assert hosting.token() == "environment"
    monkeypatch.setenv("HF_TOKEN", " ")
    assert hosting.token() == "colab HF_TOKEN"
    monkeypatch.delenv("HF_TOKEN")
    assert hosting.token() == "colab HF_TOKEN"


def test_a_token_is_asked_for_last(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: " typed ")
    assert hosting.token() == "typed"


def test_every_notebook_says_what_it_costs():
    root = Path(__file__).parents[1]
    notebooks = [*root.glob("unit*/*.ipynb"), *root.glob("hackathon/*.ipynb")]
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in notebooks}
    assert names.keys() <= hosting.COSTS.keys()
    for name, path in names.items():
        assert f'course_utils.start(\\"{name}\\")' in path.read_text(encoding="utf-8")


def shown(cost):
    """A cost as the README's table has it."""
    download = f"{cost.download_mb} MB" if cost.download_mb < 1000 else f"{cost.download_mb / 1000:.1f} GB"
    needed = f"{cost.minutes:g} min, {cost.memory_gb:g} GB"
    return f"{needed}, {download} to download" if cost.download_mb else needed


def test_the_readme_says_what_each_notebook_costs():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| [") and ".ipynb)" in line]
    said = {row[0].split("](")[1].removesuffix(".ipynb)"): row[2:4] for row in rows}
    wanted = {name: [shown(cost["mini"]), shown(cost["full"])] for name, cost in hosting.COSTS.items()}
    assert said == wanted


@pytest.mark.parametrize("unit", ["unit1", "unit2", "unit3"])
@pytest.mark.parametrize("language", ["", "ja", "ko"])
def test_each_units_readme_says_what_its_notebooks_cost(unit, language):
    text = (Path(__file__).parents[1] / unit / language / "README.md").read_text(encoding="utf-8")
    said = re.findall(
        r"^\| \[0\d .*?\]\((\w+)\.ipynb\) \|.*?\| (\d+)[,、] ?([\d.]+) GB \|", text, re.MULTILINE
    )
    costs = {name: cost["mini"] for name, cost in hosting.COSTS.items() if name.startswith(unit)}
    wanted = [
        (name.split("/")[1], f"{cost.minutes:g}", f"{cost.memory_gb:g}") for name, cost in costs.items()
    ]
    assert said == wanted
