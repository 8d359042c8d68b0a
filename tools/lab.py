"""Open JupyterLab at Unit 1, or print its address where there is no screen.

python -m tools.lab [further arguments for jupyter lab]
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

from tools import notebooks

FIRST = "unit1/01_introduction_to_diffusers.ipynb"
START_SECONDS = 60


def main(arguments=None):
    """Start JupyterLab, tell its address, wait until it ends; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    running = address_of_running(notebooks.ROOT)
    if running:
        print(f"JupyterLab is running here already:\n\n    {running}\n")
        return 0
    token, port = secrets.token_hex(24), free_port()
    screen = has_screen(os.environ, sys.platform)
    command = lab_command(port, screen, as_root=is_root())
    if not any(argument.startswith("--ip") for argument in arguments):
        command.append("--ip=127.0.0.1")
    environment = notebooks.kernel_environment(JUPYTER_TOKEN=token)  # not in the arguments: ps shows those
    # in a session of its own, Ctrl-C reaches only this process, which ends it without a second question
    process = subprocess.Popen(
        command + arguments, cwd=notebooks.ROOT, env=environment, start_new_session=True
    )
    with ended_with_us(process):
        if answers(f"http://127.0.0.1:{port}/api", process):
            print(f"\nJupyterLab is ready; open this address in a browser:\n\n    {address(port, token)}\n")
            print("Stop it with Ctrl-C.", flush=True)
        return process.wait()
    return 0


def lab_command(port, screen, as_root, root=notebooks.ROOT):
    """Return the command that starts JupyterLab on `port`, at the first notebook, as quietly as it can."""
    command = [sys.executable, "-m", "jupyterlab", f"--port={port}", "--log-level=ERROR"]
    command.append("--LabApp.log_level=ERROR")
    command += [f"--ServerApp.root_dir={root}", f"--LabApp.default_url={first_page()}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if not screen:
        command.append("--no-browser")
    if as_root:
        command.append("--allow-root")
    return command


def first_page():
    """Return the page to open: the first notebook, or its folder where it is missing."""
    return "/lab/tree/" + (FIRST if (notebooks.ROOT / FIRST).exists() else FIRST.split("/")[0])


def address(port, token):
    """Return the address that opens the first notebook."""
    return f"http://127.0.0.1:{port}{first_page()}?token={token}"


def has_screen(environment, platform):
    """Return whether a browser can open: macOS and Windows always; elsewhere a display, and not as root."""
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")) and not is_root()


def is_root():
    """Return whether this is the superuser, for whom neither browsers nor Jupyter like to run."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def free_port(first=8888, tries=50):
    """Return the first port from `first` on that nobody uses."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    sys.exit(f"Ports {first} to {first + tries - 1} are all in use: stop a program that uses one of them.")


def address_of_running(root):
    """Return the address of a JupyterLab that serves `root` already, or None."""
    from jupyter_server.serverapp import list_running_servers

    for server in list_running_servers():
        if os.path.realpath(server.get("root_dir", "")) == os.path.realpath(root):
            return f"{server['url'].rstrip('/')}{first_page()}?token={server['token']}"
    return None


def answers(url, process, seconds=START_SECONDS):
    """Wait until `url` answers; return False when the process ends, or the time is over, before."""
    end = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to this machine itself
    while process.poll() is None and time.monotonic() < end:
        try:
            with opener.open(url, timeout=2):
                return True
        except OSError:
            time.sleep(0.2)
    return False


@contextmanager
def ended_with_us(process):
    """End `process` when this one is interrupted (Ctrl-C), asked to end, or loses its terminal."""

    def leave(*_):
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), leave)
    try:
        yield
    except KeyboardInterrupt:
        print("\nJupyterLab is stopped.", flush=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
