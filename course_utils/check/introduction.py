"""Checks of unit1/01_introduction_to_diffusers."""

from __future__ import annotations

import torch

from course_utils.check.verdict import Verdict, attempt, compare, wrong
from course_utils.messages import tr


def pixel_range(to_model) -> Verdict:
    """Exercise 1: uint8 0..255 -> float32 in [-1, 1]."""
    images = torch.randint(
        0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(7), dtype=torch.uint8
    )
    images[0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    exact = images.double()
    got, failed = attempt(to_model, images.clone())
    if failed is not None:
        return failed
    causes = {
        tr("this is [0, 1]: it must become 2 wide and be shifted"): exact / 255,
        tr("this is [0, 2]: shift it down by 1"): exact / 127.5,
        tr("this is [-0.5, 0.5]: half as wide as it should be"): exact / 255 - 0.5,
        tr("you divided by 128: 255 must become exactly 1"): exact / 128 - 1,
        tr("you shifted before dividing in uint8, which wraps round at 0: call .float() first"): (
            (images - 1) / 127.5
        ),
    }
    verdict = compare(
        got, exact / 127.5 - 1, tr("0 becomes -1, 255 becomes 1, the shape stays."), causes, 1e-5
    )
    kind = got.dtype if isinstance(got, torch.Tensor) else type(got).__name__
    if verdict and kind != torch.float32:
        return wrong(
            tr(
                "the numbers are right, but of type {dtype}, expected torch.float32: call .float().",
                dtype=kind,
            )
        )
    return verdict


def one_noise_step(step) -> Verdict:
    """Exercise 2: a draw from q(xt | x_{t-1}), Ho et al. 2020, eq. 2."""
    x, eps = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    beta = 0.19
    got, failed = attempt(step, x.clone(), beta, eps.clone())
    if failed is not None:
        return failed
    causes = {
        tr("the noise is multiplied by beta, its variance: take the root"): (
            (1 - beta) ** 0.5 * x + beta * eps
        ),
        tr("both factors are variances: take the roots"): (1 - beta) * x + beta * eps,
        tr("the picture is multiplied by 1 - beta: take the root"): (1 - beta) * x + beta**0.5 * eps,
        tr("the picture must shrink too, or the variance grows with every step"): x + beta**0.5 * eps,
        tr("picture and noise have changed places"): beta**0.5 * x + (1 - beta) ** 0.5 * eps,
    }
    wanted = (1 - beta) ** 0.5 * x + beta**0.5 * eps
    return compare(
        got, wanted, tr("the two factors' squares add up to 1, so the variance stays 1."), causes, 1e-5
    )


class _Model(torch.nn.Module):
    """A stand-in for the network: a fixed function of xt and t, that notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, xt, t):
        from diffusers.models.unets.unet_2d import UNet2DOutput

        t = torch.as_tensor(t)
        self.seen.append(t)
        return UNet2DOutput(sample=torch.tanh(0.7 * xt + t.reshape(-1, 1, 1, 1).to(xt.dtype) / 1000))


def loss(loss_by_hand) -> Verdict:
    """Exercise 3: the mean squared error of x0_hat."""
    from diffusers import DDPMScheduler
    from torch.nn.functional import mse_loss

    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    x0, eps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    t = torch.tensor([30, 400, 700, 990])
    a = scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    xt, turned = a.sqrt() * x0 + (1 - a).sqrt() * eps, a.sqrt() * eps + (1 - a).sqrt() * x0
    got, failed = attempt(loss_by_hand, _Model(), scheduler, x0.clone(), eps.clone(), t.clone())
    if failed is not None:
        return failed

    def error(shown, told, wanted):
        return mse_loss(_Model()(shown, told).sample, wanted)

    causes = {
        tr("the network was shown the clean picture: give it the noisy one"): error(x0, t, x0),
        tr("the network was shown pure noise: give it the noisy picture"): error(eps, t, x0),
        tr("the network was told t = 0 for every picture: give it the t of the noise"): error(xt, t * 0, x0),
        tr("the network's answer is held against eps, expected x0"): error(xt, t, eps),
        tr("the noisy picture itself is taken for the answer: ask the network"): mse_loss(xt, x0),
        tr("add_noise takes the clean picture first and the noise second"): error(turned, t, x0),
    }
    return compare(got, error(xt, t, x0), tr("the network sees xt and t, and is held to x0."), causes, 1e-5)


def sampling_loop(sample_by_hand) -> Verdict:
    """Exercise 4: the loop of network and scheduler, compared with DDIM's formula (eq. 12, eta 0)."""
    model, scheduler = _Model(), _scheduler()
    start = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(10))
    got, failed = attempt(sample_by_hand, model, scheduler, start.clone())
    if failed is not None:
        return failed
    if len(model.seen) != len(scheduler.timesteps):
        return wrong(
            tr(
                "the network was asked {times} times, expected {expected}: once a timestep.",
                times=len(model.seen),
                expected=len(scheduler.timesteps),
            )
        )
    causes = {
        tr("xt never changes: replace it by the scheduler's .prev_sample in each pass"): start,
        tr("you went on from x0_hat: the next xt is .prev_sample"): _walk(start, jump=True),
        tr("scheduler.step was called twice in each pass: once is enough"): _walk(start, twice=True),
    }
    return compare(got, _walk(start), tr("your loop gives what the formulas give."), causes, 1e-4)


def _scheduler():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(8)
    return scheduler


def _walk(xt, jump=False, twice=False):
    """The right loop from xt, or one of two wrong ones."""
    from course_utils import diffusion

    alpha_bar, model, ts = diffusion.cosine_alpha_bar(), _Model(), diffusion.spaced_timesteps(8)
    for t, t_next in zip(ts, [*ts[1:], -1], strict=True):
        output = model(xt, t).sample
        for _ in range(2 if twice else 1):
            x0_hat = diffusion.to_x0(output, xt, torch.full((len(xt),), t), alpha_bar, "v").clamp(-1, 1)
            eps = diffusion.to_eps(x0_hat, xt, torch.full((len(xt),), t), alpha_bar)
            a_next = alpha_bar[t_next] if t_next >= 0 else torch.ones(())
            xt = x0_hat if jump else a_next.sqrt() * x0_hat + (1 - a_next).sqrt() * eps
    return xt
