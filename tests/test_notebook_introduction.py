"""What notebook 01 writes by hand equals what the package, and later notebooks, use."""

from pathlib import Path

import nbformat
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from course_utils import data, diffusion, train
from tests import solutions

PATH = Path(__file__).parents[1] / "unit1" / "01_introduction_to_diffusers.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}
CONFIG = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}


@pytest.fixture
def by_hand():
    """The names that the imports and all solutions of the notebook define."""
    space = {}
    exec(CELLS["imports"].source, space)
    solutions.run(CELLS, space)
    return space


def model(xt, t):
    from diffusers.models.unets.unet_2d import UNet2DOutput

    return UNet2DOutput(sample=torch.tanh(0.5 * xt + torch.as_tensor(t).reshape(-1, 1, 1, 1) / 1000))


def test_range(by_hand):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert (by_hand["to_model"](images) - data.to_model(images)).abs().max() < 1e-6


def test_many_single_steps_of_noise_equal_the_closed_form(by_hand):
    """Mean and variance after 50 steps by hand, against alpha_bar."""
    alpha_bar, generator = diffusion.linear_alpha_bar(50, beta_end=0.1), torch.Generator().manual_seed(0)
    x = torch.ones(200_000, dtype=torch.float64)
    for beta in diffusion.betas(alpha_bar).double():
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = by_hand["one_noise_step"](x, beta, eps)
    assert abs(x.mean() - alpha_bar[-1].sqrt()) < 5 / 200_000**0.5
    assert abs(x.var() - (1 - alpha_bar[-1])) < 0.01


def test_loss(by_hand):
    x0 = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    t = torch.randint(0, 1000, (4,), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    mine = by_hand["loss_by_hand"](model, DDPMScheduler(**CONFIG), x0, eps, t)
    alpha_bar = diffusion.cosine_alpha_bar()
    package = train.diffusion_loss(alpha_bar, "x0")(model, x0, torch.Generator().manual_seed(2))
    assert abs(mine - package) < 1e-5


def test_sampling_loop(by_hand):
    scheduler = DDIMScheduler(**CONFIG, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    start = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    mine = by_hand["sample_by_hand"](model, scheduler, start)
    alpha_bar = diffusion.cosine_alpha_bar()
    denoise = diffusion.denoiser(model, alpha_bar, "x0")
    package = diffusion.last(diffusion.ddim(denoise, start, alpha_bar, diffusion.spaced_timesteps(10)))
    assert (mine - package).abs().max() < 1e-4
