"""The shipped miniatures that see a picture beside the text, on scenes that no card was measured with."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionUpscalePipeline,
)
from PIL import Image

from course_utils import checkpoints, data
from recipes import depth, inpainting, upscaler

SEED = 4711
KINDS = {
    "sd-inpainting": StableDiffusionInpaintPipeline,
    "sd-depth": StableDiffusionDepth2ImgPipeline,
    "sd-upscaler": StableDiffusionUpscalePipeline,
}
NETWORKS = ("clip", "ddpm-butterflies", "ddpm-flowers", "sd", *KINDS)
NETWORKS_MB = 60  # all together


def pipeline(name):
    return KINDS[name].from_pretrained(checkpoints.verified(name))


@pytest.fixture(scope="module")
def inpainted():
    return inpainting.measured(pipeline("sd-inpainting"), count=100, seed=SEED)


@pytest.fixture(scope="module")
def redrawn():
    return depth.measured(pipeline("sd-depth"), count=100, seed=SEED)


def short_of(goal):
    """What the networks do not reach yet; the day they do, the test fails, and this mark goes."""
    return pytest.mark.xfail(strict=True, reason=f"the goal is not reached yet: {goal}")


def test_the_asked_subject_is_inside_the_mask(inpainted):
    assert inpainted["noun"] >= 0.9


@short_of("0.058, where the autoencoder alone changes 0.017")
def test_nothing_changes_outside_the_mask_but_for_the_autoencoder(inpainted):
    assert inpainted["outside"] <= inpainted["outside, VAE"]


def test_the_pipeline_pastes_back_what_lies_outside_of_the_mask():
    scene = data.scenes(1, seed=SEED).images[0].permute(1, 2, 0).numpy()
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 20:44] = 255
    pipe = pipeline("sd-inpainting")
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "padding_mask_crop": 64}
    given = {"image": Image.fromarray(scene), "mask_image": Image.fromarray(mask), "num_inference_steps": 4}
    drawn = np.asarray(pipe("a drawing of a red fish on a beach", **given, **size).images[0])
    assert drawn.shape == scene.shape and (drawn[mask == 0] == scene[mask == 0]).all()
    assert (drawn[mask > 0] != scene[mask > 0]).any()


def test_a_scene_of_given_depth_is_what_was_asked_for(redrawn):
    assert min(redrawn[name] for name in ("colour", "pattern", "background")) >= 0.9


@short_of("0.77, as the depth network sees it, which reads 0.92 in the given pictures themselves")
def test_a_scene_of_given_depth_keeps_the_outline(redrawn):
    assert redrawn["outline"] >= 0.85


@short_of("1.0 dB above bicubic enlargement, in two steps 1.7 dB")
def test_the_upscaler_beats_bicubic_enlargement():
    found = upscaler.measured(pipeline("sd-upscaler"), count=50, seed=SEED)
    assert found["25 steps"] >= found["bicubic"] + 2


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_safetensors_in_half_precision(name):
    from safetensors.torch import load_file

    files = list(Path(checkpoints.verified(name)).rglob("*.safetensors"))
    assert {weight.dtype for file in files for weight in load_file(file).values()} <= {
        torch.float16,
        torch.int64,
    }
    assert files and not list(Path(checkpoints.verified(name)).rglob("*.bin"))


def test_all_networks_together_are_small():
    files = [path for name in NETWORKS for path in (checkpoints.MINIATURES / name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= NETWORKS_MB * 1e6


@pytest.mark.parametrize("name", KINDS)
def test_the_card_tells_what_was_measured(name):
    card = (Path(checkpoints.verified(name)) / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| measured \| \|", card) and re.search(r"\d\.\d", card)
