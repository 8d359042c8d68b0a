"""Schedules, the forward process, what a network predicts, and samplers, in plain PyTorch.

One convention throughout: variance preserving, pixels in [-1, 1], integer timesteps t of shape (B,),
0 the least noisy and T - 1 the noisiest; `alpha_bar` has shape (T,).

    symbol       paper                       here
    alpha_bar    Ho et al. 2020, eq. 4       alpha_bar[t] = prod_{s <= t} (1 - beta_s)
    x0, xt, eps  Ho et al. 2020, eq. 4       xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps
    v            Salimans & Ho 2022, app. D  v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0
    sigma        Karras et al. 2022          sigma = sqrt((1 - alpha_bar) / alpha_bar)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course_utils.messages import none_of, tr

# what the course calls a network's output -> what Diffusers calls it
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (xt (B, C, H, W), t (B,)) -> x0_hat (B, C, H, W)
Step = tuple[int, Tensor, Tensor]  # t, xt before the step, x0_hat predicted from it


# Schedules


def linear_alpha_bar(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """alpha_bar (T,) of betas that rise linearly (Ho et al. 2020, section 4)."""
    return torch.cumprod(1 - torch.linspace(beta_start, beta_end, timesteps), 0)


def cosine_alpha_bar(timesteps: int = 1000, max_beta: float = 0.999) -> Tensor:
    """alpha_bar (T,) of the cosine schedule (Nichol & Dhariwal 2021, eq. 17); no beta exceeds `max_beta`."""
    u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return torch.cumprod(1 - betas.float(), 0)


def betas(alpha_bar: Tensor) -> Tensor:
    """The noise added in each single step, (T,): beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}."""
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    return 1 - alpha_bar / before


def log_snr(alpha_bar: Tensor) -> Tensor:
    """log of signal power over noise power, of the shape of `alpha_bar`."""
    return torch.log(alpha_bar) - torch.log1p(-alpha_bar)


# The forward process, and what a network may predict


def at(alpha_bar: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """alpha_bar at the timesteps t (B,), shaped (B, 1, ..., 1) so that it multiplies `like`."""
    return alpha_bar.to(like.device, like.dtype)[t].reshape(-1, *[1] * (like.ndim - 1))


def add_noise(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Draw from q(xt | x0) (Ho et al. 2020, eq. 4): x0 and eps (B, ...), t (B,) -> xt (B, ...)."""
    a = at(alpha_bar, t, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def target(x0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """What a network with this `prediction` ("eps", "x0" or "v") should give for xt: (B, ...)."""
    _known(prediction)
    if prediction == "x0":
        return x0
    if prediction == "eps":
        return eps
    a = at(alpha_bar, t, x0)
    return a.sqrt() * eps - (1 - a).sqrt() * x0


def to_x0(output: Tensor, xt: Tensor, t: Tensor, alpha_bar: Tensor, prediction: str) -> Tensor:
    """The x0_hat (B, ...) that a network's `output` for xt at t stands for; the inverse of `target`."""
    _known(prediction)
    a = at(alpha_bar, t, xt)
    if prediction == "x0":
        return output
    if prediction == "eps":
        return (xt - (1 - a).sqrt() * output) / a.sqrt()
    return a.sqrt() * xt - (1 - a).sqrt() * output


def to_eps(x0_hat: Tensor, xt: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise (B, ...) that must be in xt if its clean picture is x0_hat."""
    a = at(alpha_bar, t, xt)
    return (xt - a.sqrt() * x0_hat) / (1 - a).sqrt()


def prediction_of(scheduler) -> str:
    """What the network of a pipeline with this Diffusers scheduler predicts: "eps", "x0" or "v"."""
    ours = {theirs: name for name, theirs in PREDICTIONS.items()}
    return ours[scheduler.config.prediction_type]


def _known(prediction):
    if prediction not in PREDICTIONS:
        raise ValueError(none_of("prediction", prediction, PREDICTIONS))


def denoiser(
    model, alpha_bar: Tensor, prediction: str, clip: bool = True, gradients: bool = False
) -> Denoiser:
    """Wrap a network as (xt, t) -> x0_hat; `clip` keeps x0_hat in [-1, 1].

    The network may return a tensor or, like those of Diffusers, an object with `.sample`. Gradients pass only
    if `gradients` is true, and the caller has not switched them off.
    """

    def denoise(xt, t):
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            output = model(xt, t)
            x0_hat = to_x0(getattr(output, "sample", output), xt, t, alpha_bar, prediction)
            return x0_hat.clamp(-1, 1) if clip else x0_hat

    return denoise


# The ideal denoiser of a finite set: what a network that had learned everything about its data would answer


def posterior(xt: Tensor, t: Tensor, data: Tensor, alpha_bar: Tensor) -> Tensor:
    """How likely each member of a finite set is the x0 behind xt, all being equally likely before: (B, N).

    softmax over i of -|xt - sqrt(alpha_bar) x0_i|^2 / (2 (1 - alpha_bar)): Bayes' rule with q(xt | x0).
    xt: (B, ...). t: (B,). data: (N, ...), each member of xt's shape. Computed in float64, where the large
    distances at little noise still differ by the right amount; returned in xt's dtype.
    """
    if xt.shape[1:] != data.shape[1:]:
        raise ValueError(
            tr(
                "got xt of shape {xt} and data of shape {data}, expected (B, ...) and (N, ...) that agree "
                "after the first number.",
                xt=tuple(xt.shape),
                data=tuple(data.shape),
            )
        )
    x, members = _double(xt).flatten(1), _double(data).flatten(1)  # (B, D), (N, D)
    a = at(alpha_bar, t.to(alpha_bar.device), x)  # (B, 1)
    match = a.sqrt() * (x @ members.T) - a / 2 * members.square().sum(1)  # (B, N), less |xt|^2, common to all
    return torch.softmax(match / (1 - a), 1).to(xt.device, xt.dtype)


def ideal_denoiser(data: Tensor, alpha_bar: Tensor) -> Denoiser:
    """The best possible denoiser of a finite set, in closed form (Karras et al. 2022, appendix B.3).

    x0_hat = sum_i posterior_i x0_i: no network has a lower mean squared error on these data. It averages at
    high noise, copies a member at low noise, and never makes anything new. data: (N, ...); the denoiser
    takes (xt, t) and gives x0_hat.
    """

    def denoise(xt, t):
        weight = _double(posterior(xt, t, data, alpha_bar))  # (B, N)
        x0_hat = weight @ _double(data).flatten(1)  # (B, N) x (N, D) -> (B, D)
        return x0_hat.reshape(xt.shape).to(xt.device, xt.dtype)

    return denoise


def _double(x):
    """float64; on the CPU where the device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


# Samplers: generators of (t, xt, x0_hat), one tuple a step. xt is the picture before the step and x0_hat
# what the network sees in it; the x0_hat of the last step is the result.


def spaced_timesteps(steps: int, timesteps: int = 1000) -> list[int]:
    """`steps` timesteps from T - 1 down, evenly spaced ("trailing": Lin et al. 2024, table 2)."""
    if not 1 <= steps <= timesteps:
        raise ValueError(
            tr(
                "got {steps} steps, expected 1 to {timesteps}: a step needs a timestep of its own.",
                steps=steps,
                timesteps=timesteps,
            )
        )
    stride = timesteps - (timesteps - timesteps / steps)  # rounded as in NumPy's arange, so in Diffusers
    return [round(timesteps - i * stride) - 1 for i in range(steps)]


def _walk(alpha_bar, ts) -> Iterator[tuple[int, int, float, float]]:
    """Pairs of neighbouring timesteps with their alpha_bar; after the last comes clean, alpha_bar 1.

    As Python's floats, of double precision on every device: 1 - a / a_next cancels in float32.
    """
    a = [*alpha_bar.tolist(), 1.0]
    for t, t_next in zip(ts, [*ts, -1][1:], strict=True):
        yield t, t_next, a[t], a[t_next]


def _full(t, xt):
    return torch.full((len(xt),), t, device=xt.device)


def ddpm(
    denoise: Denoiser, xt: Tensor, alpha_bar: Tensor, ts: list[int], generator: torch.Generator | None = None
) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the posterior's own variance, eq. 7).

    xt: (B, ...) pure noise. ts: descending timesteps; those skipped are stepped over in one.
    """
    for t, _, a, a_next in _walk(alpha_bar, ts):
        x0_hat = denoise(xt, _full(t, xt))
        yield t, xt, x0_hat
        beta = 1 - a / a_next
        mean = a_next**0.5 * beta / (1 - a) * x0_hat + (1 - beta) ** 0.5 * (1 - a_next) / (1 - a) * xt
        std = ((1 - a_next) / (1 - a) * beta) ** 0.5
        xt = (mean + std * _noise(xt, generator)).to(xt.dtype) if t != ts[-1] else mean.to(xt.dtype)


def ddim(
    denoise: Denoiser,
    xt: Tensor,
    alpha_bar: Tensor,
    ts: list[int],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, eq. 12): eta = 0 adds no noise, eta = 1 as much as DDPM."""
    for t, _, a, a_next in _walk(alpha_bar, ts):
        x0_hat = denoise(xt, _full(t, xt))
        yield t, xt, x0_hat
        eps = (xt - a**0.5 * x0_hat) / (1 - a) ** 0.5
        std = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
        xt = a_next**0.5 * x0_hat + max(0.0, 1 - a_next - std**2) ** 0.5 * eps
        if eta > 0 and t != ts[-1]:
            xt = xt + std * _noise(xt, generator)
        xt = xt.to(x0_hat.dtype)


def euler(denoise: Denoiser, xt: Tensor, alpha_bar: Tensor, ts: list[int]) -> Iterator[Step]:
    """Euler steps along the probability flow ODE (Karras et al. 2022, algorithm 1 without its second half).

    The ODE dx/dsigma = (x - x0_hat) / sigma lives in x = xt / sqrt(alpha_bar); there Euler's step is DDIM's.
    """
    for t, _, a, a_next in _walk(alpha_bar, ts):
        x0_hat = denoise(xt, _full(t, xt))
        yield t, xt, x0_hat
        x, sigma, sigma_next = xt / a**0.5, ((1 - a) / a) ** 0.5, ((1 - a_next) / a_next) ** 0.5
        # Euler's x + (x - x0_hat) / sigma * (sigma_next - sigma), rearranged: at the cosine schedule's first
        # sigma, 20,000, float32 would lose 2e-4 of xt in the difference of large numbers
        x = x0_hat + (x - x0_hat) * (sigma_next / sigma)
        xt = (x * a_next**0.5).to(x0_hat.dtype)


def dpm_solver(denoise: Denoiser, xt: Tensor, alpha_bar: Tensor, ts: list[int]) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): DDIM, with x0_hat drawn out along its last change."""
    lam = (0.5 * log_snr(alpha_bar.cpu().double())).tolist()
    old = None
    for i, (t, t_next, a, a_next) in enumerate(_walk(alpha_bar, ts)):
        x0_hat = denoise(xt, _full(t, xt))
        yield t, xt, x0_hat
        ahead = x0_hat
        if old is not None and t_next >= 0:
            r = (lam[t] - lam[ts[i - 1]]) / (lam[t_next] - lam[t])
            ahead = x0_hat + (x0_hat - old) / (2 * r)
        old = x0_hat
        eps_part = ((1 - a_next) / (1 - a)) ** 0.5
        xt = (eps_part * xt + (a_next**0.5 - eps_part * a**0.5) * ahead).to(x0_hat.dtype)


def last(steps: Iterator[Step]) -> Tensor:
    """Run a sampler to its end and return its picture: x0_hat of the last step, (B, ...)."""
    x0_hat = None
    for _, _, x0_hat in steps:  # noqa: B007
        pass
    if x0_hat is None:
        raise ValueError(tr("got a sampler without steps, expected at least one timestep."))
    return x0_hat


def _noise(like, generator):
    device = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
