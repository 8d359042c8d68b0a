"""The peers from the registry: their environment, and one of them at work in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_utils import runs

ROOT = Path(__file__).parents[1]
FOLDER, PINS = ROOT / "build" / "peers", Path(__file__).with_name("peers.txt")
PROGRAM = Path(__file__).with_name("peer.py")
NAMES = {"denoising": "denoising-diffusion-pytorch", "smalldiffusion": "smalldiffusion"}


class Unavailable(RuntimeError):
    """The peers can't be had here, in one sentence; the other comparisons go on without them."""


def environment(folder: Path = FOLDER, pins: Path = PINS) -> Path:
    """The folder of the peers' packages, which only their processes see; made where it is missing.

    Everything else, PyTorch above all, they share with the course.
    """
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return folder
    print(f"Installing the peers into {folder} ...", flush=True)
    with runs.whole_folder(folder) as new:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        command = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(new), "-r", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = ([line for line in done.stderr.splitlines() if line.strip()] or ["no reason"])[-1]
            raise Unavailable(
                f"got no environment for the peers (pip: {reason.strip()}), expected the packages of "
                f"{pins.name} in {folder}: check the connection and run this again; all other figures stand."
            )
        (new / stamp.name).write_text(pins.read_text())
    return folder


class Peer:
    """A peer in a process of its own; see `benchmarks.peer` for what a job and an order may say.

    Between its turns the whole process is stopped, its loaders of data too: it neither works ahead nor takes
    time from the others. facts: what it said about its network. images: uint8, (N, 3, H, W).
    """

    def __init__(self, job: dict, images: Tensor, program: Path = PROGRAM):
        packages = environment()
        self.name, self.folder = job["peer"], tempfile.TemporaryDirectory(prefix="peer_")
        self.place = Path(self.folder.name)
        save_file({"images": images.contiguous()}, self.place / "pictures.safetensors")
        (self.place / "job.json").write_text(json.dumps({"threads": torch.get_num_threads(), **job}))
        with open(self.place / "log.txt", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(program), str(self.place)],
                env={**os.environ, "PYTHONPATH": str(packages), "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            self.facts = self._answer()
        except RuntimeError as error:
            self.close()
            raise Unavailable(str(error)) from error

    def order(self, **order) -> dict:
        """Wake it, let it carry out an order, and stop it again; returns its answer."""
        self._signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def sample(self, count: int) -> Tensor:
        """`count` pictures as its own sampler makes them: float in [-1, 1], (count, 3, H, W)."""
        self.order(sample=count)
        return load_file(self.place / "samples.safetensors")["samples"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            told = [text for text in (self.place / "log.txt").read_text().splitlines() if text.strip()]
            raise RuntimeError(
                f"got no answer from the process of {self.name}, expected one: {(told or ['no reason'])[-1]}"
            )
        self._signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # until it has stopped
        return json.loads(line)

    def _signal(self, number):
        os.killpg(self.process.pid, number)

    def close(self) -> None:
        """End the process and everything that it started."""
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
