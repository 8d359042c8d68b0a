"""Install the course into .venv, once.

Standard library only, and no newer syntax than Python 2.7's, because this file also has to tell that a Python
is too old. Every problem ends in one sentence that says what to do.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
NEEDED_GB = 3.0  # PyTorch's CPU build and everything else: 2.1 GB installed, plus what pip unpacks on the way
OLD_WIDGETS = os.path.join("tests", "ipywidgets7.txt")
OLD_VERSIONS = os.path.join("tests", "oldest.txt")
KEYED_FILES = ("requirements.txt", "constraints.txt", "pyproject.toml", OLD_WIDGETS, OLD_VERSIONS)

CPU_HINT = (
    "on Linux without an NVIDIA card, "
    'PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" needs far less'
)
NO_SPACE = ("No space left on device", "Errno 28", "Disk quota exceeded", "not enough space on the disk")
NO_REGISTRY = (
    "NewConnectionError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "getaddrinfo failed",
    "Network is unreachable",
    "Connection refused",
    "Connection reset",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Read timed out",
    "Max retries exceeded",
    "ProxyError",
    "Tunnel connection failed",
    "CERTIFICATE_VERIFY_FAILED",
    "SSLError",
)
NO_WRITE = ("Permission denied", "Read-only file system", "Operation not permitted")


class Problem(Exception):
    """What stops the installation, in one sentence that says what to do."""


def main(argv=None):
    """Install if needed; return the exit status."""
    try:
        check_python(sys.version_info[:3])
        options = parse(argv)
        with one_at_a_time(ROOT):
            install(ROOT, shlex.split(options.pip_args), keep_python=options.python_by_default)
    except Problem as problem:
        sys.stderr.write("\n%s\n" % problem)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted: the next run starts the installation over.\n")
        return 130
    return 0


def parse(argv):
    """Return the options."""
    parser = argparse.ArgumentParser(description="Install the course into .venv, once.")
    parser.add_argument("--pip-args", default="", help="further arguments for pip install")
    parser.add_argument(
        "--python-by-default",
        action="store_true",
        help="nobody asked for this very Python: a finished .venv of another version is good enough",
    )
    return parser.parse_args(argv)


def install(root, pip_args, keep_python=False):
    """Make `.venv` and install into it, unless its stamp tells that this has been done."""
    venv = os.path.join(root, ".venv")
    stamp = os.path.join(venv, "installed.txt")
    have, wanted = venv_version(venv), "%d.%d" % sys.version_info[:2]
    if keep_python and have and read(stamp):
        wanted = have
    key = stamp_key(root, wanted)
    if have == wanted and read(stamp) == key:
        return
    whole = have == wanted and read(stamp) is not None  # a finished installation of older requirements
    check_disk(root, 0.5 if whole else NEEDED_GB)
    if whole:
        os.remove(stamp)
    else:
        make_venv(venv)
    say("Installing into .venv (some minutes the first time) ...")
    for command in (pip_command(root, pip_args), old_widgets_command(root)):
        run_pip(venv_python(venv), command, root)
    with open(stamp, "w") as file:
        file.write(key)


def check_python(version, works=None):
    """Raise Problem when `version` is too old; name a newer Python if one is installed."""
    if tuple(version[:2]) >= OLDEST:
        return
    names = ["python3.%d" % minor for minor in range(20, OLDEST[1] - 1, -1)]
    newer = next((name for name in names if (works or python_works)(name)), None)
    if newer:
        mend = "run this again with PYTHON=%s, which is installed here" % newer
    else:
        mend = "install one from https://www.python.org/downloads/ and run this again with PYTHON=/path/to/it"
    raise Problem(
        "Python %d.%d is too old, the course needs 3.%d or newer: %s."
        % (version[0], version[1], OLDEST[1], mend)
    )


def python_works(name):
    """Return whether the command `name` is there and runs."""
    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.call([name, "-c", "pass"], stdout=nowhere, stderr=nowhere) == 0
        except OSError:
            return False


def check_disk(root, needed_gb, disk_usage=None):
    """Raise Problem when less than `needed_gb` is free where `.venv` will stand."""
    free_gb = (disk_usage or shutil.disk_usage)(root).free / 1e9
    if free_gb < needed_gb:
        raise Problem(
            "The disk is too full: %.1f GB are free in %s and the installation needs about %g GB; free some "
            "and run this again (%s)." % (free_gb, root, needed_gb, CPU_HINT)
        )


def make_venv(venv, run=None):
    """Make an empty virtual environment at `venv`, in place of what stands there."""
    try:
        import ensurepip  # noqa: F401  Debian and Ubuntu split this off
        import venv as venv_module  # noqa: F401
    except ImportError:
        raise Problem(no_venv())  # noqa: B904  `from None`, here and below, does not parse on Python 2
    command = [sys.executable, "-m", "venv", "--clear", venv]
    done = (run or subprocess.run)(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        text = done.stdout.decode("utf-8", "replace")
        raise Problem(no_venv() if "ensurepip" in text else explain(text, "python -m venv", done.returncode))


def no_venv():
    """Return the sentence for a Python without `venv`."""
    return (
        "This Python has no venv module: on Debian or Ubuntu run `sudo apt install python3-venv` (or "
        "python3.%d-venv), elsewhere install Python from https://www.python.org/downloads/, and run this "
        "again." % sys.version_info[1]
    )


def pip_command(root, pip_args):
    """Return the arguments of `pip` that install the course and its tools."""
    old = os.environ.get("COURSE_OLDEST")  # another weekly run: the oldest versions that are allowed
    constraints = os.path.join(root, OLD_VERSIONS if old else "constraints.txt")
    command = ["install", "--disable-pip-version-check", "--no-input", "-c", constraints]
    if os.environ.get("COURSE_NEWEST"):  # the weekly run: the newest release of everything
        command = command[:3] + ["--upgrade", "--upgrade-strategy", "eager"]
    return command + ["-e", root + "[lab,test]"] + list(pip_args)


def old_widgets_command(root):
    """Return the arguments of `pip` that put ipywidgets 7 where no Python finds it by itself."""
    folder = os.path.join(root, ".venv", "ipywidgets7")
    command = ["install", "--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--upgrade"]
    return command + ["--target", folder, "-r", os.path.join(root, OLD_WIDGETS)]


def run_pip(python, command, root, popen=subprocess.Popen):
    """Run pip, pass its output through, and raise Problem in plain words when it fails."""
    environment = dict(os.environ, PIP_USER="0", PYTHONNOUSERSITE="1")
    environment.pop("PYTHONPATH", None)
    process = popen([python, "-m", "pip"] + command, stderr=subprocess.PIPE, cwd=root, env=environment)
    lines = []
    for line in process.stderr:
        text = line.decode("utf-8", "replace")
        sys.stderr.write(text)
        sys.stderr.flush()
        lines.append(text)
    status = process.wait()
    if status:
        raise Problem(explain("".join(lines), "pip", status))


def explain(text, program, status):
    """Return one sentence for what `program` wrote when it failed."""
    if any(sign in text for sign in NO_SPACE):
        return (
            "The disk (or the folder for temporary files, see TMPDIR) is full: free about %g GB and run this "
            "again; it starts over by itself (%s)." % (NEEDED_GB, CPU_HINT)
        )
    if any(sign in text for sign in NO_REGISTRY):
        return (
            "The package registry can't be reached: check the connection (and HTTPS_PROXY, PIP_CERT or "
            "PIP_INDEX_URL, if your network needs them) and run this again; what is downloaded already is "
            "not downloaded twice."
        )
    if any(sign in text for sign in NO_WRITE):
        return (
            "Writing was refused: make the folder %s writable for you, or copy the course elsewhere, and run "
            "this again." % ROOT
        )
    if "No matching distribution found" in text:
        missing = text.split("No matching distribution found for", 1)[-1].strip().split("\n")[0]
        return (
            "The registry offers no %s for Python %d.%d on this machine: try another Python "
            "(PYTHON=python3.%d), or name a registry that has it in PIP_ARGS."
            % ((missing,) + sys.version_info[:2] + (OLDEST[1],))
        )
    if "ResolutionImpossible" in text:
        return (
            "No set of versions fits Python %d.%d.%d and constraints.txt on this machine: try another Python "
            "(PYTHON=python3.%d or newer) and run this again." % (sys.version_info[:3] + (OLDEST[1],))
        )
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
    text = "%s stopped with exit status %d, and its last line was: %s; mend that and run this again."
    return text % (program, status, last)


def stamp_key(root, python_version):
    """Return what the installation depends on, as one hash."""
    versions = [os.environ.get(name, "") for name in ("COURSE_NEWEST", "COURSE_OLDEST")]
    place = "%s %s %s" % (python_version, root, versions)
    digest = hashlib.sha256(place.encode("utf-8"))
    for name in KEYED_FILES:
        digest.update((read(os.path.join(root, name)) or "").encode("utf-8"))
    return digest.hexdigest()


def venv_python(venv):
    """Return the path of the Python inside `venv`."""
    return os.path.join(venv, *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))


def venv_version(venv):
    """Return the version ("3.11") of the Python in `venv`, or None where none runs."""
    command = [venv_python(venv), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout.decode("ascii").strip() if done.returncode == 0 else None


def read(path):
    """Return the text of a file, or None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


@contextmanager
def one_at_a_time(root):
    """Let one installation run at a time; the lock goes with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # Windows, where make is rare
        yield
        return
    try:
        os.makedirs(os.path.join(root, "build"), exist_ok=True)
        lock = open(os.path.join(root, "build", "install.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise Problem(explain(str(error), "writing the lock", 1))  # noqa: B904
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another installation is running here; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(text):
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
