"""unit1/train_unconditional.py, as a reader runs it."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from course_utils import data, runs
from tools import lab
from unit1 import train_unconditional

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "unit1" / "train_unconditional.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "COURSE_SCALE": "mini",
    "HF_HUB_OFFLINE": "1",
}
SMALL = [
    "--count",
    "60",
    "--size",
    "16",
    "--channels",
    "8",
    "16",
    "--batch-size",
    "4",
    "--checkpoint-every",
    "7",
]


def command(*options):
    return [sys.executable, SCRIPT, *SMALL, *map(str, options)]


def main(*options):
    """The script without the cost of a new process: its exit code."""
    return train_unconditional.main([*SMALL, *map(str, options)])


@pytest.fixture(scope="module", autouse=True)
def _as_in_the_environment(one_thread):
    """What runs in this process does so as in a new one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "mini")
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing disturbed, and its progress bar."""
    folder, bar = tmp_path_factory.mktemp("runs") / "unbroken", io.StringIO()
    with contextlib.redirect_stderr(bar):
        assert main("--steps", 40, "--sample-every", 15, "--output", folder) == 0
    return folder, bar.getvalue()


def scalars(folder, name):
    """(step, value) of one curve, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_help_explains_itself(capsys):
    with pytest.raises(SystemExit) as end:
        train_unconditional.parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for group in ("pictures:", "network and diffusion:", "training:", "what it writes:", "examples:"):
        assert f"\n{group}\n" in text
    options = train_unconditional.parse([])
    for name, value in vars(options).items():
        assert f"--{name.replace('_', '-')}" in text
        if value is not None and value is not False:
            assert f"(default: {value})" in " ".join(text.split()), name


def test_a_run_leaves_curve_pictures_logs_checkpoints_and_a_stock_pipeline(unbroken):
    from diffusers import DDPMPipeline

    folder, bar = unbroken
    losses = runs.read_losses(folder / "loss.jsonl")
    assert list(losses) == list(range(1, 41))
    assert re.search(r"40/40 .*, loss \d\.\d{4}, \d+\.\d images/s", bar)
    assert scalars(folder, "loss") == [(step, pytest.approx(loss)) for step, loss in losses.items()]
    assert [f.name for f in runs.Checkpoints(folder / "checkpoints").files()] == [
        "step_000040.pt",
        "step_000035.pt",
    ]
    pictures = sorted(file.name for file in (folder / "samples").iterdir())
    assert pictures == ["step_000015.png", "step_000030.png", "step_000040.png"]
    assert Image.open(folder / "samples" / pictures[0]).size == (8 * 18 - 2, 2 * 18 - 2)

    pipeline = DDPMPipeline.from_pretrained(folder / "pipeline")
    state = torch.load(folder / "checkpoints" / "step_000040.pt", weights_only=True)
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight, state["ema"][name])
    assert pipeline.scheduler.config.prediction_type == "sample"
    assert pipeline.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    image = pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (16, 16)
    card = (folder / "pipeline" / "README.md").read_text()
    for fact in (
        "| data | butterflies |",
        "| size | 16 |",
        "| steps | 40 |",
        "| minutes of training |",
        "| loss, mean",
    ):
        assert fact in card
    assert str(folder) not in card


def test_killed_at_any_moment_and_resumed_it_ends_as_if_unbroken(unbroken, tmp_path):
    """Bit for bit: what is random in a step depends on the seed and the number of the step alone."""
    folder, log = tmp_path / "killed", tmp_path / "killed" / "loss.jsonl"
    chance = random.Random()  # another moment in every run of the tests
    moment = chance.randrange(35)
    process = subprocess.Popen(
        command("--steps", 40, "--sample-every", 15, "--output", folder),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and lines(log) <= moment:
        time.sleep(0.002)
    time.sleep(chance.random() * 0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(1.1)  # TensorBoard orders its files by the second; a new process would not be so fast either
    assert main("--steps", 40, "--sample-every", 15, "--output", folder, "--resume") == 0
    wanted = (unbroken[0] / "loss.jsonl").read_text().splitlines()
    assert log.read_text().splitlines() == wanted, f"killed after step {moment}"
    steps = [step for step, _ in scalars(folder, "loss")]
    assert steps == list(range(1, 41))
    states = [
        torch.load(f / "checkpoints" / "step_000040.pt", weights_only=True) for f in (folder, unbroken[0])
    ]
    for name, weight in states[0]["ema"].items():
        assert torch.equal(weight, states[1]["ema"][name])


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_checkpoint_cut_in_half_is_refused_and_the_one_before_used(unbroken, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(unbroken[0], folder)
    wanted = (folder / "loss.jsonl").read_text()
    newest = folder / "checkpoints" / "step_000040.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert main("--steps", 40, "--sample-every", 15, "--output", folder, "--resume") == 0
    text = capsys.readouterr().out
    assert text.count("got step_000040.pt, which is damaged (") == 1
    assert "from step 35 to 40" in text
    assert (folder / "loss.jsonl").read_text() == wanted


def test_what_cannot_be_is_said_in_one_sentence(unbroken, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    taken, new = unbroken[0], tmp_path / "new"
    before = {file: file.stat().st_mtime_ns for file in taken.rglob("*")}
    cases = [
        (
            ["--size", 15],
            "got --size 15 with 2 --channels, which halve it 1 times, expected a multiple of 2: ",
        ),
        (["--channels", 8, 12], "got --channels [8, 12], expected multiples of 8: "),
        (["--batch-size", 5000], "got a batch of 5000 for a set of "),
        (["--data", tmp_path / "empty"], "which holds no pictures, expected files ending in "),
        (["--data", tmp_path / "missing"], "which does not exist, expected a folder of pictures "),
        (["--data", SCRIPT], "which is a file, expected a folder"),
        (
            ["--output", taken],
            "which holds a run with other settings (steps 40 there and 1200 here), expected ",
        ),
        (
            ["--output", taken, "--resume"],
            "which holds a run with other settings (steps 40 there and 1200 here)",
        ),
        (
            ["--output", taken, "--steps", 40],
            "which already holds this run, expected an empty one: add --resume ",
        ),
        (
            ["--output", tmp_path],
            "which holds files but no run, expected an empty one: give another --output",
        ),
        (["--learning-rate", "1e30", "--steps", 20], "expected a finite one: lower learning_rate=1e+30"),
    ]
    for options, sentence in cases:
        assert main("--output", new, *options) == 2, options
        text = capsys.readouterr().err
        said = [line for line in text.splitlines() if line.startswith("train_unconditional.py: got ")]
        assert len(said) == 1 and sentence in said[0] and "Traceback" not in text, text
    for options in (["--steps", 0], ["--prediction", "noise"], ["--size", "big"]):
        with pytest.raises(SystemExit) as end:
            main(*options)
        assert end.value.code == 2
    assert {file: file.stat().st_mtime_ns for file in taken.rglob("*")} == before


def test_an_image_folder_trains_and_names_what_it_skipped(tmp_path, capsys, monkeypatch):
    """Without ever asking for all pictures at once."""
    images = data.StoredSet.images
    monkeypatch.setattr(data.StoredSet, "images", images.getter(lambda _: pytest.fail("reads all pictures")))
    pictures, folder = tmp_path / "cats", tmp_path / "run"
    pictures.mkdir()
    for i in range(5):
        Image.new("RGB", (20, 30), (50 * i, 0, 0)).save(pictures / f"{i}.png")
    (pictures / "text.png").write_text("not a picture")
    options = ["--steps", 2, "--prediction", "eps", "--schedule", "linear", "--accumulate", 2]
    assert main("--data", pictures, "--output", folder, *options) == 0
    assert "skipped text.png: its content is no picture." in capsys.readouterr().out
    settings = json.loads((folder / "run.json").read_text())
    assert settings["pictures"] == 5 and settings["flip"] is True
    card = (folder / "pipeline" / "README.md").read_text()
    assert "| data | cats |" in card and str(tmp_path) not in card
    assert main("--data", "digits", "--output", tmp_path / "digits", "--steps", 1) == 0
    assert json.loads((tmp_path / "digits" / "run.json").read_text())["flip"] is False


def test_two_processes_under_accelerate_launch(tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", str(lab.free_port())]  # 0 would do for a newer accelerate
    launch += [SCRIPT, *SMALL, "--steps", "8", "--output", tmp_path / "run"]
    done = subprocess.run(launch, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("from step 0 to 8") == 1  # one process alone speaks and writes
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert list(runs.read_losses(tmp_path / "run" / "loss.jsonl")) == list(range(1, 9))
    assert lines(tmp_path / "run" / "loss.jsonl") == 8
    assert len(list((tmp_path / "run" / "logs").iterdir())) == 1
    assert (tmp_path / "run" / "pipeline" / "model_index.json").exists()
