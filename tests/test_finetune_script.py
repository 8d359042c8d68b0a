"""unit2/finetune_model.py: begins where the given model ended, and shares the rest with unit 1's script."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

from course_utils import checkpoints, data, runs
from unit2 import finetune_model

SMALL = ["--count", "12", "--batch-size", "2", "--checkpoint-every", "1", "--model", "ddpm-butterflies"]


def main(*options):
    return finetune_model.main([*SMALL, *map(str, options)])


@pytest.fixture(autouse=True)
def _mini(monkeypatch, one_thread):
    monkeypatch.setenv("COURSE_SCALE", "mini")


def weights(folder):
    return DDPMPipeline.from_pretrained(folder).unet.float().state_dict()


def test_it_begins_where_the_model_ended(tmp_path):
    assert main("--steps", 1, "--learning-rate", 0, "--output", tmp_path / "run") == 0
    before = weights(checkpoints.MINIATURES / "ddpm-butterflies")
    after = weights(tmp_path / "run" / "pipeline")
    assert all(torch.equal(before[name], after[name]) for name in before)
    scheduler = DDPMPipeline.from_pretrained(tmp_path / "run" / "pipeline").scheduler.config
    assert (scheduler.beta_schedule, scheduler.prediction_type) == ("squaredcos_cap_v2", "sample")


def test_a_model_may_have_other_timesteps_than_a_thousand(tmp_path):
    pipeline = DDPMPipeline.from_pretrained(checkpoints.MINIATURES / "ddpm-butterflies")
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, num_train_timesteps=100)
    pipeline.save_pretrained(tmp_path / "model")
    assert main("--model", tmp_path / "model", "--steps", 1, "--output", tmp_path / "run") == 0
    assert (tmp_path / "run" / "samples" / "step_000001.png").exists()


def test_it_learns_samples_and_resumes(tmp_path):
    options = ("--steps", 3, "--data", "flowers", "--accumulate", 2)
    assert main(*options, "--output", tmp_path / "run") == 0
    assert list(runs.read_losses(tmp_path / "run" / "loss.jsonl")) == [1, 2, 3]
    assert (tmp_path / "run" / "samples" / "step_000003.png").exists()
    assert "flowers" in (tmp_path / "run" / "pipeline" / "README.md").read_text()
    (tmp_path / "run" / "checkpoints" / "step_000003.pt").unlink()
    whole = weights(tmp_path / "run" / "pipeline")
    assert main(*options, "--output", tmp_path / "run", "--resume") == 0
    again = weights(tmp_path / "run" / "pipeline")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "ddpm-butterflies"


def test_the_pictures_of_a_folder_are_never_all_in_memory(tmp_path, monkeypatch):
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 90)).save(tmp_path / f"{number}.png")
    images = data.StoredSet.images
    monkeypatch.setattr(data.StoredSet, "images", images.getter(lambda _: pytest.fail("reads all pictures")))
    assert main("--steps", 1, "--data", tmp_path, "--output", tmp_path / "run") == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "ddpm-dragons"), "neither a miniature nor a folder, expected one of ddpm-butterflies"),
        (("--data", "digits"), "got pictures with 1 channels for a model of 3"),
        (("--data", "/no/such/folder"), "/no/such/folder"),
        (("--batch-size", "40"), "lower the batch size"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(tmp_path, capsys, options, words):
    assert main("--steps", 1, "--output", tmp_path / "run", *options) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("finetune_model.py: got") and words in said
