"""Run every notebook as a stranger opens it: alone, in an empty folder, without `course_utils` installed.

    python -m tools.alone [NOTEBOOK ...]

The set-up cell of a notebook installs `course_utils` from the repository's public address; here, git answers
that address with a snapshot of this working tree. nbval compares what the cells give with the saved outputs,
so one run proves two things: the notebook sets itself up, and what it shows is true.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

from tools import links, notebooks

BUILD = notebooks.ROOT / "build" / "alone"
SANITIZE = notebooks.ROOT / "tests" / "nbval_sanitize.cfg"
KERNEL = "alone"
CELL_SECONDS = 600
HIDDEN = ("course_utils", "__editable__", "__pycache__")  # what an editable installation leaves behind


def main(argv=None):
    """Run the notebooks; return 1 if one failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", help="notebooks to run (default: all of the course)")
    options = parser.parse_args(argv)
    start = time.monotonic()
    paths = notebooks.find_notebooks(options.notebook)
    build = notebooks.empty_folder(BUILD)
    git_config = snapshot(notebooks.ROOT, build, links.load())
    site = dependencies(Path(sysconfig.get_path("purelib")), build / "site")
    print(f"The repository's snapshot is ready ({time.monotonic() - start:.1f} s).", flush=True)
    failed = [path.name for path in paths if not run_alone(path, build, git_config, site)]
    print("\nFailed, opened alone: " + ", ".join(failed) if failed else "\nEvery notebook runs alone.")
    return 1 if failed else 0


def run_alone(path, build, git_config, site):
    """Run the notebook at `path` under nbval in an environment of its own; return whether it passed."""
    start = time.monotonic()
    place = build / path.parent.name / path.stem
    python = environment(place / "venv", site)
    copy = notebooks.empty_folder(place / "folder") / path.name
    copy.write_bytes(path.read_bytes())
    kernel(place / "jupyter", python, git_config)
    print(f"\n{path.name}: environment ready ({time.monotonic() - start:.1f} s)", flush=True)
    return nbval(copy, place / "jupyter") and brought_its_own(python, path)


def snapshot(root, build, course):
    """Commit the files of `root` to a new repository; return a git configuration that serves it.

    With that configuration, git (and so pip) reads the snapshot wherever the course's public address is asked
    for. What .gitignore names stays out.
    """
    repository, config = build / "snapshot.git", build / "gitconfig"
    address = f"https://github.com/{course['repository']}"
    config.write_text(
        "[user]\n\tname = snapshot\n\temail = snapshot@localhost\n[safe]\n\tdirectory = *\n"
        "[uploadpack]\n\tallowFilter = true\n[core]\n\tautocrlf = false\n"
        f'[url "{repository.as_uri()}"]\n\tinsteadOf = {address}.git\n\tinsteadOf = {address}\n',
        encoding="utf-8",
    )

    def git(*arguments):
        command = ["git", f"--git-dir={repository}", f"--work-tree={root}", *arguments]
        try:
            subprocess.run(command, check=True, cwd=root, env=git_environment(config), capture_output=True)
        except FileNotFoundError:
            sys.exit("git was not found: install it (for example sudo apt install git) and run this again.")
        except subprocess.CalledProcessError as error:
            sys.exit(f"git {arguments[0]} failed: {error.stderr.decode('utf-8', 'replace').strip()}")

    git("init", "--quiet")
    git("symbolic-ref", "HEAD", f"refs/heads/{course['branch']}")
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", "snapshot")
    return config


def git_environment(config):
    """Return an environment in which git knows `config` and nothing of this machine's or a hook's."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**others, "GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1"}


def dependencies(installed, site):
    """Fill the folder `site` with links to what is `installed`, all but the course's own package."""
    site.mkdir(parents=True)
    for entry in installed.iterdir():
        if not entry.name.startswith(HIDDEN) and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    return site


def environment(folder, site):
    """Make a virtual environment that sees `site`; return its Python.

    Raises SystemExit when `course_utils` can be imported there already: the run would prove nothing.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    purelib = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(purelib) / "dependencies.pth").write_text(f"{site}\n", encoding="utf-8")
    code = "import importlib.util as u; print(u.find_spec('pip') is not None, u.find_spec('course_utils'))"
    if ask(python, code) != "True None":
        sys.exit(f"{folder} should have pip and no course_utils: remove build/ and run this again.")
    return python


def ask(python, code):
    """Return what `code` prints in `python`, run from a folder without the course."""
    command = [str(python), "-c", code]
    done = subprocess.run(command, cwd=Path(python).parent, env=without_python_path(), capture_output=True)
    return done.stdout.decode("utf-8").strip()


def without_python_path():
    """Return this process's environment without PYTHONPATH."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def kernel(folder, python, git_config):
    """Register `python` as a kernel in `folder`, which JUPYTER_PATH shall name."""
    own = {
        "PATH": str(python.parent) + os.pathsep + os.environ.get("PATH", ""),
        "GIT_CONFIG_GLOBAL": str(git_config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this upside down: 0 is "no isolation", so no download
        "PIP_NO_INDEX": "1",
        "TQDM_MININTERVAL": "1",  # nbval reads messages when a cell has ended; of thousands, some are dropped
        **notebooks.saved_scale(),
    }
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": KERNEL, "language": "python", "env": own}
    notebooks.write_text(json.dumps(spec), folder / "kernels" / KERNEL / "kernel.json")


def nbval(copy, jupyter):
    """Compare a fresh run of the notebook `copy` with its saved outputs; return whether they agree."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["--nbval", "-p", "tools.nbval_frontend", f"--nbval-kernel-name={KERNEL}"]
    command += [f"--nbval-sanitize-with={SANITIZE}", f"--nbval-cell-timeout={CELL_SECONDS}", str(copy)]
    run_environment = notebooks.kernel_environment(JUPYTER_PATH=str(jupyter))
    return subprocess.run(command, cwd=notebooks.ROOT, env=run_environment).returncode == 0


def brought_its_own(python, path):
    """Return whether the run has installed `course_utils` into the environment of `python`."""
    found = ask(python, "import course_utils; print(course_utils.__file__)")
    if Path(found).is_relative_to(python.parent.parent):
        return True
    print(f"{path.name} did not install course_utils: its set-up cell must, where the package is missing.")
    return False


if __name__ == "__main__":
    sys.exit(main())
