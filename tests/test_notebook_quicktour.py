"""What the quick tour writes by hand equals what Diffusers and the package do."""

import re
from pathlib import Path
from types import SimpleNamespace

import diffusers
import nbformat
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, StableDiffusionPipeline

from course_utils import checkpoints, data, diffusion
from recipes import sd
from tests import solutions, untrained

PATH = Path(__file__).parents[1] / "unit1" / "00_quicktour.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}
FISH = "a drawing of a red striped fish on a beach"


@pytest.fixture(autouse=True)
def _mini(monkeypatch, one_thread):
    monkeypatch.setenv("COURSE_SCALE", "mini")


@pytest.fixture
def by_hand():
    """The names that the imports and all solutions of the notebook define."""
    space = {}
    exec(CELLS["imports"].source, space)
    solutions.run(CELLS, space)
    return space


@pytest.fixture
def butterflies():
    pipeline = DDPMPipeline.from_pretrained(checkpoints.verified("ddpm-butterflies"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_picture_comes_first():
    """Of what a reader waits for before it, there is nothing but what it needs."""
    codes = [name for name, cell in CELLS.items() if cell.cell_type == "code"]
    assert codes.index("first") == 3
    early = "\n".join(CELLS[name].source for name in codes[: codes.index("first")])
    assert not re.search(r"\b(explore|scores|train|asking|transformers|sklearn)\b", early)


def test_the_loop_draws_the_pipelines_picture(by_hand, butterflies, monkeypatch):
    monkeypatch.setenv("COURSE_REHEARSAL", "12")
    model, scheduler = butterflies.unet, DDIMScheduler.from_config(butterflies.scheduler.config)
    space = by_hand | {"model": model, "scheduler": scheduler, "device": "cpu"}
    exec(CELLS["loop"].source, space)
    seed = torch.Generator().manual_seed(12)
    theirs = data.stack(butterflies(num_inference_steps=12, generator=seed).images)
    assert (data.to_uint8(space["xt"]).int() - theirs.int()).abs().max() <= 2


class Smooth:
    """A network that answers with a clean picture, whose samples no rounding error changes much."""

    config = SimpleNamespace(sample_size=32)

    def __call__(self, xt, t):
        return SimpleNamespace(sample=torch.tanh(0.5 * xt + torch.as_tensor(t).reshape(-1, 1, 1, 1) / 1000))


def test_the_loop_is_the_packages_sampler(by_hand, butterflies, monkeypatch):
    monkeypatch.setenv(
        "COURSE_REHEARSAL", "10"
    )  # divides 1,000: else DDIMScheduler's step goes a little astray
    model, config = Smooth(), butterflies.scheduler.config
    scheduler = DDIMScheduler.from_config(
        config, clip_sample=False
    )  # it clips x0_hat, and not eps_hat with it
    space = by_hand | {"model": model, "scheduler": scheduler, "device": "cpu"}
    exec(CELLS["loop"].source, space)
    start = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(12))
    denoise = diffusion.denoiser(model, scheduler.alphas_cumprod, "x0", clip=False)
    ts = diffusion.spaced_timesteps(10)
    package = diffusion.last(diffusion.ddim(denoise, start, scheduler.alphas_cumprod, ts))
    assert (space["xt"] - package).abs().max() < 1e-4


def test_the_formula_is_the_schedulers_step(by_hand, butterflies):
    x0 = data.to_model(data.butterflies(1, seed=6).images)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    space = by_hand | {"model": butterflies.unet, "scheduler": butterflies.scheduler, "x0": x0, "eps": eps}
    exec(CELLS["step"].source, space)
    assert torch.allclose(space["by_hand"], space["prev_sample"], atol=1e-4)
    assert (space["prev_sample"] - space["xt"]).abs().max() > 0.01


@pytest.mark.parametrize(
    "kind",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)
def test_the_mended_loop_is_the_pipelines(by_hand, kind):
    pipeline = untrained.pipeline(StableDiffusionPipeline, **sd.UNCHECKED)
    pipeline.scheduler = by_hand["swapped"](pipeline.scheduler, getattr(diffusers, kind))
    assert type(pipeline.scheduler).__name__ == kind
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 5, "guidance_scale": 1, "output_type": "latent"}
    theirs = pipeline(FISH, latents=noise.clone(), **settings).images
    with torch.no_grad():
        states = pipeline.encode_prompt(FISH, "cpu", 1, False)[0]
        mine = by_hand["sample_by_hand"](
            lambda zt, t: pipeline.unet(zt, t, encoder_hidden_states=states), pipeline.scheduler, noise, 5
        )
    assert (mine - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_a_picture_of_many_is_the_one_drawn_alone(by_hand):
    pipeline = untrained.pipeline(StableDiffusionPipeline, **sd.UNCHECKED)
    short = {"num_inference_steps": 2}
    quick = lambda *given, **settings: pipeline(*given, **short, **settings)  # noqa: E731
    many = data.stack(by_hand["pictures_of"](quick, FISH, [5, 9]))
    alone = data.stack(quick(FISH, generator=torch.Generator().manual_seed(9)).images)
    assert (many[1:].int() - alone.int()).abs().max() <= 2
    assert not torch.equal(many[0], many[1])


def test_pixels_and_mask(by_hand):
    x = 1.2 * torch.randn((3, 6, 5), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(by_hand["to_pixels"](x), data.to_uint8(x).permute(1, 2, 0).numpy())
    mask = by_hand["box_mask"](16, 8, (3, 1, 11, 6))
    from diffusers.image_processor import VaeImageProcessor

    binary = {"do_normalize": False, "do_binarize": True, "do_convert_grayscale": True}
    seen = VaeImageProcessor(vae_scale_factor=1, **binary).preprocess(mask)  # as the inpainting pipeline
    assert seen.shape == (1, 1, 8, 16) and seen.sum() == 8 * 5 and seen[0, 0, 1, 3] == 1


def test_the_folder_gives_the_same_picture(by_hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_REHEARSAL", "2")
    pipeline = untrained.pipeline(StableDiffusionPipeline, **sd.UNCHECKED)
    space = by_hand | {"pipeline": pipeline, "prompt": FISH, "STEPS": 2, "precision": {}, "device": "cpu"}
    exec(CELLS["seed"].source.replace("np.array_equal(draw(0), picture)", "True"), space)
    space["picture"] = space["draw"](0)
    for name in ("folder", "folder-load"):
        exec(CELLS[name].source, space)
    assert space["difference"] == 0
