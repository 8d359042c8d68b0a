"""hackathon/train_dreambooth.py, as a reader runs it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from course_utils import checkpoints, leaderboard, runs, submission
from hackathon import train_dreambooth
from tests.test_dreambooth import small

ROOT = Path(__file__).parent.parent
SMALL = [
    "--steps",
    "6",
    "--batch-size",
    "2",
    "--prior-pictures",
    "4",
    "--rank",
    "2",
    "--checkpoint-every",
    "2",
]
TOKEN = "hf_" + "planted" * 5


@pytest.fixture(autouse=True)
def _mini(monkeypatch, one_thread):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    monkeypatch.setenv("COURSE_REHEARSAL", "4")


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """A miniature with random weights, in the folder of miniatures that the package is told of."""
    place = tmp_path_factory.mktemp("miniatures")
    for path in checkpoints.MINIATURES.iterdir():
        if path.is_dir() and path.name != "sd":
            (place / path.name).symlink_to(path)
    small().save_pretrained(place / "sd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "MINIATURES", place)
        checkpoints.note_checksums()
        yield place


def main(*options):
    return train_dreambooth.main([*SMALL, *map(str, options)])


@pytest.fixture(scope="module")
def unbroken(sd, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_SCALE", "mini")
        patch.setenv("COURSE_REHEARSAL", "4")
        assert main("--output", folder, "--sample-every", 3) == 0
    return folder


def learned(folder):
    """The weights of the newest checkpoint."""
    return runs.torch.load(runs.Checkpoints(folder / "checkpoints").files()[0], weights_only=True)["model"]


def test_help_explains_itself(capsys):
    with pytest.raises(SystemExit) as end:
        train_dreambooth.parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for group in (
        "subject:",
        "what learns, and what is to stay:",
        "training:",
        "what it writes:",
        "examples:",
    ):
        assert f"\n{group}\n" in text
    for name in vars(train_dreambooth.parse([])):
        assert f"--{name.replace('_', '-')}" in text


def test_a_run_leaves_curve_pictures_checkpoints_and_a_submission_that_is_ranked(unbroken):
    assert list(runs.read_losses(unbroken / "loss.jsonl")) == list(range(1, 7))
    pictures = sorted(file.name for file in (unbroken / "samples").iterdir())
    assert pictures == ["step_000003.png", "step_000006.png"]
    assert Image.open(unbroken / "samples" / pictures[0]).size == (4 * 66 - 2, 64)
    entry = submission.read(unbroken / "submission")
    assert (entry.subject, entry.theme, entry.way) == ("ember", "animal", "lora") and "CC0" in entry.licence
    base = checkpoints.load(__import__("diffusers").StableDiffusionPipeline, "sd")
    place = next(leaderboard.judge([("mine", unbroken / "submission")], base))
    assert place.reason is None and place.scores.total == pytest.approx(entry.scores.total, abs=0.01)
    assert str(unbroken) not in (unbroken / "submission" / "README.md").read_text()
    assert set(learned(unbroken)) and all("lora" in name for name in learned(unbroken))


def test_killed_at_any_moment_and_resumed_it_ends_as_if_unbroken(unbroken, sd, tmp_path):
    folder = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from course_utils import checkpoints; "
        f"checkpoints.MINIATURES = Path({str(sd)!r}); "
        "from hackathon import train_dreambooth; sys.exit(train_dreambooth.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code, *SMALL, "--sample-every", "3", "--output", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    moment, log = random.Random().randrange(6), folder / "loss.jsonl"  # another one in every run of the tests
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > moment):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main("--output", folder, "--sample-every", 3, "--resume") == 0
    assert (folder / "loss.jsonl").read_text() == (unbroken / "loss.jsonl").read_text(), (
        f"killed after {moment}"
    )
    assert all(torch.equal(value, learned(unbroken)[name]) for name, value in learned(folder).items())
    assert not [f for f in folder.rglob("*") if f.name.startswith(".")]


@pytest.mark.parametrize("way", ["unet", "unet+text"])
def test_whole_parts_learn_as_well_and_without_a_prior(sd, tmp_path, way):
    assert main("--way", way, "--prior-weight", 0, "--steps", 2, "--output", tmp_path / "run") == 0
    assert not (tmp_path / "run" / "prior.pt").exists()
    parts = {file.parent.name for file in (tmp_path / "run" / "submission").rglob("*.safetensors")}
    assert parts == {"unet", *(["text_encoder"] if way == "unet+text" else [])}


def test_pictures_of_ones_own(sd, tmp_path, capsys):
    folder = tmp_path / "tom"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (70 + i, 50), (90 * i, 40, 200)).save(folder / f"{i}.jpg")
    own = [
        "--pictures",
        folder,
        "--kind",
        "fish",
        "--identifier",
        "blue",
        "--steps",
        2,
        "--output",
        tmp_path / "run",
    ]
    assert main(*own) == 2
    assert "without --subject or --licence" in capsys.readouterr().err
    assert main(*own, "--subject", "our fish Tom", "--licence", "CC BY 4.0, mine", "--theme", "wildcard") == 0
    assert "got the identifier 'blue', which is an ordinary word" in capsys.readouterr().out
    entry = submission.read(tmp_path / "run" / "submission")
    assert entry.own and entry.subject == "our fish Tom" and entry.theme == "wildcard"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pictures", "nessie"], "nessie, which does not exist"),
        (["--kind", "dragon"], "kind 'dragon'"),
        (["--identifier", "two words"], "one rare word"),
        (["--licence", "x" * 300], "expected a line of 1 to 200 characters"),
        (["--learning-rate", "1e30"], "expected a finite one"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(sd, tmp_path, capsys, options, words):
    assert main("--output", tmp_path / "run", *options) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("train_dreambooth.py: got") and words in said


def test_a_finished_run_can_be_published_afterwards(unbroken, hub, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.tokens[TOKEN] = "learner"
    publish = ["--output", unbroken, "--sample-every", 3, "--resume", "--push-to", "learner/ember"]
    assert main(*publish) == 0
    told = capsys.readouterr().out
    assert f"Published as {hub.address}/learner/ember." in told and TOKEN not in told
    files = hub.repositories["models", "learner/ember"].files
    assert submission.TAG.encode() in files["README.md"] and "pytorch_lora_weights.safetensors" in files
    assert not any(TOKEN.encode() in content for content in files.values())
    assert not any(TOKEN.encode() in file.read_bytes() for file in unbroken.rglob("*") if file.is_file())


def test_at_full_scale_a_published_checkpoint_is_taught(hub, tmp_path, monkeypatch):
    """On a GPU its weights stay in half precision; here, on a CPU, they are in single."""
    folder = tmp_path / "tom"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (700, 520 + i), (90 * i, 40, 200)).save(folder / f"{i}.jpg")
    monkeypatch.setenv("COURSE_REHEARSAL", "1")
    told = ["--pictures", folder, "--kind", "cat", "--subject", "Tom", "--licence", "mine"]
    small_run = ["--steps", 1, "--batch-size", 1, "--prior-pictures", 1, "--rank", 2]
    assert train_dreambooth.main([*map(str, [*told, *small_run, "--output", tmp_path / "run"])]) == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["precision"] == "fp16" and settings["thrifty"] and settings["learning_rate"] <= 1e-4
    entry = submission.read(tmp_path / "run" / "submission")
    assert entry.scale == "full" and entry.base == checkpoints.MODELS["sd"].ids[0]
