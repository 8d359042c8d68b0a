"""The table of models, and the miniatures; test_hub.py has what is published."""

import shutil

import pytest
from diffusers import DDPMPipeline, StableDiffusionPipeline

from course_utils import checkpoints

SHIPPED = sorted(folder.name for folder in checkpoints.MINIATURES.iterdir() if folder.is_dir())


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of one miniature and of the checksums, in the place of the shipped ones."""
    monkeypatch.setenv("COURSE_SCALE", "mini")
    shutil.copytree(checkpoints.MINIATURES / "ddpm-butterflies", tmp_path / "ddpm-butterflies")
    shutil.copy(checkpoints.MINIATURES / "checksums.json", tmp_path)
    monkeypatch.setattr(checkpoints, "MINIATURES", tmp_path)
    return tmp_path / "ddpm-butterflies"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_miniature_is_shipped_whole(name, monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    assert checkpoints.locate(name) == str(checkpoints.MINIATURES / name)
    assert (checkpoints.MINIATURES / name / "README.md").exists()


def test_every_file_has_a_checksum_and_no_weights_can_run_code():
    files = [path for path in checkpoints.MINIATURES.rglob("*") if path.is_file()]
    listed = (checkpoints.MINIATURES / "checksums.json").read_text()
    for path in files:
        name = path.relative_to(checkpoints.MINIATURES).as_posix()
        assert (f'"{name}"' in listed) == (path.suffix != ".md" and name != "checksums.json")
        assert path.suffix in (".json", ".md", ".safetensors", ".txt"), path


def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def cut(folder):
    weights(folder).write_bytes(weights(folder).read_bytes()[:1000])


def tampered(folder):
    content = bytearray(weights(folder).read_bytes())
    content[-1] ^= 1
    weights(folder).write_bytes(content)


def missing(folder):
    weights(folder).unlink()


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (cut, "is not the one that the course ships"),
        (tampered, "is not the one that the course ships"),
        (missing, "is missing"),
    ],
)
def test_a_damaged_miniature_says_which_file_and_what_to_do(copy, damage, state):
    assert checkpoints.locate("ddpm-butterflies") == str(copy)
    damage(copy)
    with pytest.raises(
        OSError, match=rf"diffusion_pytorch_model.safetensors {state}.*install the course again"
    ):
        checkpoints.locate("ddpm-butterflies")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="'dall-e', expected one of clip, ddpm-butterflies"):
        checkpoints.locate("dall-e")


def test_deleted_repositories_are_not_in_the_table():
    ids = [hub_id for model in checkpoints.MODELS.values() for hub_id in model.ids]
    assert not [i for i in ids if i.startswith(("runwayml/", "stabilityai/stable-diffusion-2"))]


def test_load_gives_the_pipeline_and_refuses_a_class_that_needs_other_parts(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    pipeline = checkpoints.load(DDPMPipeline, "ddpm-butterflies")
    assert pipeline.unet.config.sample_size == 32
    with pytest.raises(ValueError, match="for a StableDiffusionPipeline, expected one with .*text_encoder"):
        checkpoints.load(StableDiffusionPipeline, "ddpm-butterflies")
