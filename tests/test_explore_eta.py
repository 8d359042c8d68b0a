"""The randomness knob: its ends are those of the sampler, and its numbers those of its ends."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from course_utils import data, diffusion, explore
from course_utils.explore import eta

pytestmark = pytest.mark.usefixtures("one_thread")

ALPHA_BAR = diffusion.cosine_alpha_bar()
STARTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def fanned():
    x0 = data.to_model(data.butterflies(40, size_px=16).images)
    return explore.fan(diffusion.ideal_denoiser(x0, ALPHA_BAR), STARTS, ALPHA_BAR, ends=5, steps=8)


def test_without_noise_every_end_is_that_of_diffusers(fanned):
    x0 = data.to_model(data.butterflies(40, size_px=16).images)
    denoise = diffusion.ideal_denoiser(x0, ALPHA_BAR)
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(8)
    xt = STARTS
    for t in scheduler.timesteps:
        xt = scheduler.step(denoise(xt, torch.full((2,), int(t))), t, xt).prev_sample
    assert fanned.ends[0.0].shape == (2, 5, 3, 16, 16)
    assert (fanned.ends[0.0] - xt[:, None]).abs().max() < 1e-3
    assert fanned.spread[0.0] == [0, 0]


def test_the_more_noise_the_less_the_start_decides(fanned):
    for start in (0, 1):
        spread = [values[start] for values in fanned.spread.values()]
        assert spread[0] == 0 < spread[2] < spread[-1]
        assert spread[-1] > 0.6 * fanned.apart


@pytest.mark.parametrize("at", eta.ETAS)
def test_it_tells_its_numbers(fanned, at):
    own = fanned.ends[at][1].flatten(1).numpy()
    pairs = [np.sqrt(np.mean((own[i] - own[j]) ** 2)) for i in range(5) for j in range(i)]
    drawn = explore.draw_randomness_knob(fanned, at, start=1)
    assert f"5 ends of start 1 at eta = {at:g}" in drawn.alt
    assert f"the mean distance of two of them is {np.mean(pairs):.2f}" in drawn.alt


def test_the_same_seed_gives_the_same_ends_and_drawing(fanned):
    denoise = diffusion.ideal_denoiser(STARTS, ALPHA_BAR)
    one, other = (explore.fan(denoise, STARTS[:1], ALPHA_BAR, ends=3, steps=3, seed=4) for _ in range(2))
    assert torch.equal(one.ends[1.0], other.ends[1.0]) and one.apart == other.apart
    drawn, again = (explore.draw_randomness_knob(fanned, 0.4).png() for _ in range(2))
    assert drawn == again


def test_the_sheet_shows_three_etas(fanned):
    sheet = explore.randomness_knob_sheet(fanned)
    assert [f"eta = {at:g}" in sheet.alt for at in (0, 0.4, 1)] == [True] * 3
    assert len(sheet.png()) > 10_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.5}, r"eta=0.5, expected one of 0.0, 0.2"),
        ({"start": 2}, "start=2, expected 0 to 1"),
    ],
)
def test_settings_that_it_does_not_know_are_named(fanned, settings, message):
    with pytest.raises(ValueError, match=message):
        explore.draw_randomness_knob(fanned, **settings)
