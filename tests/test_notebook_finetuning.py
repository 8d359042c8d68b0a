"""What notebook unit2/01 writes by hand equals what the package uses."""

from pathlib import Path

import nbformat
import pytest
import torch

from course_utils import data, diffusion, guidance
from tests import solutions

PATH = Path(__file__).parents[1] / "unit2" / "01_finetuning_and_guidance.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}
DEFINING = ("imports", "pipeline", "denoise", "variants", "clip", "cutouts", "clip-loss")


@pytest.fixture(scope="module")
def notebook(one_thread):
    """The names that the cells define which write something by hand, and all solutions."""
    patch, space = pytest.MonkeyPatch(), {}
    patch.setenv("COURSE_SCALE", "mini")
    for name in DEFINING:
        space |= {"samples": torch.zeros(1, 3, 32, 32), "real_flowers": torch.zeros(2, 3, 32, 32)}
        exec(CELLS[name].source, space)
    solutions.run(CELLS, space)
    yield space
    patch.undo()


@pytest.fixture
def xt():
    x0 = data.to_model(data.flowers(3, seed=5).images)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
    t = torch.tensor([950, 500, 40])
    return diffusion.add_noise(x0, eps, t, diffusion.cosine_alpha_bar()), t


def test_the_pipeline_is_used_as_its_checkpoint_says(notebook):
    assert notebook["prediction"] == "x0"
    assert torch.equal(notebook["alpha_bar"], notebook["scheduler"].alphas_cumprod)
    assert (notebook["alpha_bar"] - diffusion.cosine_alpha_bar()).abs().max() < 1e-6


def test_denoiser(notebook, xt):
    package = diffusion.denoiser(notebook["flowers"], notebook["alpha_bar"], "x0")
    assert (notebook["denoise"](*xt) - package(*xt)).abs().max() < 0.1  # bfloat16, where it is fast


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_step_with_noise(notebook, eta):
    start = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha_bar, ts = diffusion.cosine_alpha_bar().double(), [900, 500, 100]
    denoise, chance = (lambda xt, t: torch.tanh(xt)), torch.Generator().manual_seed(2)
    package = list(diffusion.ddim(denoise, start, alpha_bar, ts, eta, torch.Generator().manual_seed(2)))
    for (t, xt, x0_hat), (t_next, x_next, _) in zip(package, package[1:], strict=False):
        z = torch.randn(start.shape, generator=chance, dtype=torch.float64) if eta else torch.zeros(())
        mine = notebook["eta_step"](xt, x0_hat, alpha_bar[t], alpha_bar[t_next], eta, z)
        assert (mine - x_next).abs().max() < 1e-9


@pytest.mark.parametrize("through_model", [False, True])
def test_guidance(notebook, xt, through_model):
    arguments = notebook["open_denoise"], notebook["colour_loss"]
    mine = notebook["guided_by"](*arguments, 30.0, through_model)(*xt)
    package = guidance.by_loss(*arguments, notebook["alpha_bar"], 30.0, through_model=through_model)(*xt)
    assert torch.equal(mine, package)
    if through_model:  # and the exercise's, where neither the root's bound nor the cut to [-1, 1] matters
        few = [x[1:] for x in xt]
        solved = notebook["guided_x0_hat"](*arguments, *few, notebook["alpha_bar"], 30.0)
        assert (solved.clamp(-1, 1) - package[1:]).abs().max() < 1e-5


def test_colour_loss(notebook, xt):
    blue = notebook["BLUE"].flatten()
    package = guidance.colour_loss(blue.tolist())(xt[0])
    assert (notebook["colour_loss"](xt[0]) - package).abs().max() < 1e-6
    assert (notebook["my_colour_loss"](xt[0], blue) - package).abs().max() < 1e-6


def test_cut_outs_and_clip_loss(notebook, xt):
    mine = notebook["cut_outs"](xt[0], 3, torch.Generator().manual_seed(3))
    assert torch.equal(mine, guidance.cut_outs(xt[0], 3, 64, torch.Generator().manual_seed(3)))
    parts = notebook["clip"], notebook["tokenizer"], notebook["processor"]
    package = guidance.clip_loss(*parts, "a red flower", count=2, generator=torch.Generator().manual_seed(0))
    assert (notebook["clip_loss"]("a red flower", 2)(xt[0]) - package(xt[0])).abs().max() < 1e-5
    seen = notebook["picture_features"](guidance.cut_outs(xt[0], 2, 64, torch.Generator().manual_seed(0)))
    solved = notebook["loss_of_cut_outs"](seen, notebook["text_features"](["a red flower"]), 2)
    assert (solved - notebook["clip_loss"]("a red flower", 2)(xt[0])).abs().max() < 1e-5
