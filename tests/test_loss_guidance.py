"""Guidance by a loss: against closed forms, where the posterior of a normal distribution is known."""

import pytest
import torch

from course_utils import diffusion, guidance

pytestmark = pytest.mark.usefixtures("one_thread")

ALPHA_BAR = diffusion.cosine_alpha_bar().double()
MEAN, PULL = 0.1, torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64).reshape(1, 3, 1, 1)


def gaussian(mean, variance):
    """The ideal denoiser of a normal distribution: E[x0 | xt], in closed form."""

    def denoise(xt, t):
        a = diffusion.at(ALPHA_BAR, t, xt)
        return mean + a.sqrt() * variance / (a * variance + 1 - a) * (xt - a.sqrt() * mean)

    return denoise


def linear_loss(x0_hat):
    """Samples of q(x0) exp(-scale loss) are then normal, too: of the same variance, with a moved mean."""
    return -(PULL * x0_hat).sum((1, 2, 3))


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64) * 0.2


@pytest.mark.parametrize("t", [10, 400, 700, 930])
def test_guidance_through_the_model_denoises_the_distribution_that_it_promises(t):
    scale, variance, xt, ts = 0.7, 0.04, pictures(5), torch.full((5,), t)
    guided = guidance.by_loss(gaussian(MEAN, variance), linear_loss, ALPHA_BAR, scale, through_model=True)
    promised = gaussian(MEAN + scale * variance * PULL, variance)
    assert (guided(xt, ts) - promised(xt, ts)).abs().max() < 1e-12


def test_its_samples_are_those_of_that_distribution():
    scale, variance, start = 3.0, 0.02, pictures(4000) * 5
    guided = guidance.by_loss(gaussian(MEAN, variance), linear_loss, ALPHA_BAR, scale, through_model=True)
    samples = diffusion.last(diffusion.ddim(guided, start, ALPHA_BAR, diffusion.spaced_timesteps(200)))
    moved = samples.mean((0, 2, 3)) - MEAN
    assert (moved - scale * variance * PULL.flatten()).abs().max() < 0.005
    assert samples.var((0, 2, 3)) == pytest.approx([variance] * 3, rel=0.1)


def test_without_the_model_pixels_count_as_independent_normal_noise():
    """Where that is so, both variants are the same; and where pixels vary less, it pulls too hard."""
    xt, ts = pictures(5), torch.full((5,), 500)
    cheap, exact = (
        lambda variance, way=way: guidance.by_loss(
            gaussian(0.0, variance), linear_loss, ALPHA_BAR, 0.5, through_model=way
        )(xt, ts)
        for way in (False, True)
    )
    assert (cheap(1.0) - exact(1.0)).abs().max() < 1e-12
    assert ((cheap(0.04) - exact(0.04)) * PULL.sign()).min() > 0.01


@pytest.mark.parametrize("way", [False, True])
def test_scale_0_is_the_model_itself(way):
    xt, ts, denoise = pictures(5), torch.full((5,), 300), gaussian(MEAN, 0.04)
    guided = guidance.by_loss(denoise, linear_loss, ALPHA_BAR, 0.0, through_model=way)
    assert torch.equal(guided(xt, ts), denoise(xt, ts))


@pytest.mark.parametrize("way", [False, True])
def test_each_picture_is_guided_for_itself(way):
    """By its own timestep, not that of its place in the loop, and however many others are in the batch."""
    xt, ts = pictures(3), torch.tensor([900, 30, 500])
    guided = guidance.by_loss(gaussian(MEAN, 0.04), guidance.colour_loss((1, -1, 0)), ALPHA_BAR, 40.0,
                              through_model=way)  # fmt: skip
    one_by_one = [guided(xt[i : i + 1], ts[i : i + 1]) for i in range(3)]
    assert (guided(xt, ts) - torch.cat(one_by_one)).abs().max() < 1e-12


@pytest.mark.parametrize("way", [False, True])
def test_samplers_work_without_gradients_and_leave_none(way):
    xt = pictures(2)
    guided = guidance.by_loss(gaussian(MEAN, 0.04), linear_loss, ALPHA_BAR, 2.0, through_model=way)
    with torch.no_grad():
        result = diffusion.last(diffusion.ddim(guided, xt, ALPHA_BAR, diffusion.spaced_timesteps(5)))
    assert not result.requires_grad and not xt.requires_grad


def test_the_schedule_is_a_factor_of_the_scale():
    xt, ts, denoise = pictures(2), torch.tensor([100, 800]), gaussian(MEAN, 0.04)
    late = guidance.by_loss(denoise, linear_loss, ALPHA_BAR, 2.0, schedule=lambda a: a > 0.5)(xt, ts)
    always = guidance.by_loss(denoise, linear_loss, ALPHA_BAR, 2.0)(xt, ts)
    assert torch.equal(late[0], always[0]) and torch.equal(late[1], denoise(xt, ts)[1])


def test_the_result_is_cut_to_the_range_of_pictures():
    guided = guidance.by_loss(gaussian(MEAN, 0.04), linear_loss, ALPHA_BAR, 1e6, through_model=True)
    x0_hat = guided(pictures(2), torch.full((2,), 500))
    assert x0_hat.abs().max() == 1


def test_latents_are_not_cut():
    given = gaussian(MEAN, 0.04), linear_loss, ALPHA_BAR, 5.0
    xt, ts = 3 * pictures(2), torch.full((2,), 20)
    whole = guidance.by_loss(*given, clip=False)(xt, ts)
    assert whole.abs().max() > 1
    assert torch.equal(guidance.by_loss(*given)(xt, ts), whole.clamp(-1, 1))


def test_where_no_signal_is_left_guidance_stays_bounded():
    """A network's gradient does not vanish there: this one's is 1 everywhere."""
    guided = guidance.by_loss(lambda xt, t: xt, linear_loss, ALPHA_BAR, 0.01, through_model=True)
    xt = pictures(1)
    assert (guided(xt, torch.tensor([999])) - xt).abs().max() < 0.01 * 0.3 / 0.1 + 1e-9


def test_a_denoiser_that_keeps_its_gradients_is_named():
    network = torch.nn.Conv2d(3, 3, 1)
    closed, open_ = (
        diffusion.denoiser(lambda xt, t: network(xt), ALPHA_BAR.float(), "x0", gradients=gradients)
        for gradients in (False, True)
    )
    xt, ts = pictures(1).float(), torch.tensor([500])
    with pytest.raises(ValueError, match=r"without gradients, .*gradients=True"):
        guidance.by_loss(closed, linear_loss, ALPHA_BAR, 1.0, through_model=True)(xt, ts)
    guided = guidance.by_loss(
        open_, guidance.colour_loss((1, 1, 1)), ALPHA_BAR.float(), 1.0, through_model=True
    )
    assert guided(xt, ts).shape == xt.shape
    assert network.weight.grad is None


def test_the_colour_loss_is_the_mean_square_and_0_at_the_colour():
    loss = guidance.colour_loss((0.5, -1, 0))
    x = torch.tensor([[0.5, -1, 0], [0.1, 0.2, 0.3]]).reshape(2, 3, 1, 1).expand(2, 3, 4, 5)
    assert loss(x).tolist() == pytest.approx([0, (0.4**2 + 1.2**2 + 0.3**2) / 3])


def test_cut_outs_come_from_the_picture_and_repeat_from_a_seed():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = (guidance.cut_outs(x, 5, 48, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.shape == (10, 3, 48, 48) and torch.equal(first, again)
    assert not torch.equal(first[0], first[2])
    flat = guidance.cut_outs(torch.ones(1, 3, 32, 32) * 0.3, 5, 48, torch.Generator())
    assert (flat - 0.3).abs().max() < 1e-6
    whole = guidance.cut_outs(x, 8, 32, torch.Generator().manual_seed(1), smallest=1.0)
    assert {torch.equal(piece, x[0]) for piece in whole[::2]} == {True, False}  # some are mirrored
    assert all(torch.equal(p, x[0]) or torch.equal(p.flip(-1), x[0]) for p in whole[::2])
