"""Checks of unit1/02_diffusion_models_from_scratch."""

from __future__ import annotations

import math

import torch

from course_utils.check.verdict import Verdict, attempt, because, compare, right, wrong
from course_utils.messages import tr


def _pictures(seed, count, *shape):
    """`count` tensors of `shape`, normal, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def _alpha_bar():
    """A schedule of 12 timesteps that no formula gives, falling from 0.98 to 0.03: (12,), float64."""
    steps = torch.rand(12, generator=torch.Generator().manual_seed(20), dtype=torch.float64) + 0.5
    return 0.98 - 0.95 * (steps.cumsum(0) - steps[0]) / (steps.sum() - steps[0])


def _hinted(failed, hint):
    """The verdict on code that raised, with the hint if it raised because shapes did not fit."""
    return wrong(f"{failed.message} {hint}") if "must match the size" in failed.message else failed


def _reshape(failed):
    """The same, where (B, ...) may have met (B,)."""
    return _hinted(failed, tr("(alpha_bar[t] has shape (B,): reshape it to (B, 1, 1, 1).)"))


def add_noise(function) -> Verdict:
    """Exercise 1: a draw from q(xt | x0), Ho et al. 2020, eq. 4."""
    alpha_bar, t = _alpha_bar(), torch.tensor([9, 0, 4, 11, 6])
    x0, eps = _pictures(
        21, 2, 5, 2, 3, 5
    )  # height 3, width 5, like the batch: wrong broadcasting shows or fails
    got, failed = attempt(function, x0.clone(), eps.clone(), t.clone(), alpha_bar.clone())
    if failed is not None:
        return _reshape(failed)
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    along = alpha_bar[t]  # (5,): fits the width of 5, and is then one level a column instead of one a picture
    early = alpha_bar[t - 1].reshape(-1, 1, 1, 1)
    causes = {
        tr("the noise is multiplied by its variance, 1 - alpha_bar: take the root"): (
            a.sqrt() * x0 + (1 - a) * eps
        ),
        tr("both factors are variances: take the roots"): a * x0 + (1 - a) * eps,
        tr("the picture is multiplied by alpha_bar: take the root"): a * x0 + (1 - a).sqrt() * eps,
        tr("picture and noise have changed places"): (1 - a).sqrt() * x0 + a.sqrt() * eps,
        tr("1 - sqrt(alpha_bar) is not sqrt(1 - alpha_bar)"): a.sqrt() * x0 + (1 - a.sqrt()) * eps,
        tr("every column has its own noise level, not every picture: reshape to (B, 1, 1, 1)"): (
            along.sqrt() * x0 + (1 - along).sqrt() * eps
        ),
        tr("this is one timestep too early: t counts from 0, so it is alpha_bar[t]"): (
            early.sqrt() * x0 + (1 - early).sqrt() * eps
        ),
    }
    wanted = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return compare(
        got, wanted, tr("each picture gets its own noise level, and the variances add up to 1."), causes, 1e-5
    )


def ddim_step(function) -> Verdict:
    """Exercise 2: DDIM's step without noise, Song et al. 2021, eq. 12 with sigma 0."""
    a, a_next = torch.tensor(0.31, dtype=torch.float64), torch.tensor(0.77, dtype=torch.float64)
    xt, x0_hat = _pictures(22, 2, 3, 1, 4, 5)
    got, failed = attempt(function, xt.clone(), x0_hat.clone(), a.clone(), a_next.clone())
    if failed is not None:
        return failed
    eps = (xt - a.sqrt() * x0_hat) / (1 - a).sqrt()
    wanted = a_next.sqrt() * x0_hat + (1 - a_next).sqrt() * eps
    unrooted = (xt - a * x0_hat) / (1 - a)
    causes = {
        tr("this is x0_hat itself: a step goes only part of the way"): x0_hat,
        tr("this is eps_hat: mix it with x0_hat at the next noise level"): eps,
        tr("you went back to the level you came from: the second mix uses a_next"): xt,
        tr("a and a_next have changed places"): (
            a.sqrt() * x0_hat + (1 - a).sqrt() * (xt - a_next.sqrt() * x0_hat) / (1 - a_next).sqrt()
        ),
        tr("the noise is left out: without eps_hat the picture is too clean for its timestep"): (
            a_next.sqrt() * x0_hat
        ),
        tr("the mix uses a_next without its root"): a_next * x0_hat + (1 - a_next) * eps,
        tr("eps_hat is computed without the roots"): a_next.sqrt() * x0_hat + (1 - a_next).sqrt() * unrooted,
        tr("eps_hat must be divided by sqrt(1 - a)"): (
            a_next.sqrt() * x0_hat + (1 - a_next).sqrt() * (xt - a.sqrt() * x0_hat)
        ),
    }
    return compare(
        got, wanted, tr("the same picture, the same noise, mixed for the next level."), causes, 1e-5
    )


def x0_from_v(function) -> Verdict:
    """Exercise 3: the clean picture that a velocity stands for (Salimans & Ho 2022, appendix D)."""
    alpha_bar, t = _alpha_bar(), torch.tensor([2, 10, 5, 7, 1])
    x0, eps = _pictures(23, 2, 5, 2, 3, 5)
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    xt, v = a.sqrt() * x0 + (1 - a).sqrt() * eps, a.sqrt() * eps - (1 - a).sqrt() * x0
    got, failed = attempt(function, v.clone(), xt.clone(), t.clone(), alpha_bar.clone())
    if failed is not None:
        return _reshape(failed)
    along = alpha_bar[t]
    causes = {
        tr("this is eps: swap the two factors, and mind the sign"): (1 - a).sqrt() * xt + a.sqrt() * v,
        tr("the sign of v is wrong: it points from the picture to the noise"): (
            a.sqrt() * xt + (1 - a).sqrt() * v
        ),
        tr("both factors are variances: take the roots"): a * xt - (1 - a) * v,
        tr("this is right if the output were eps; for v nothing is divided"): (
            (xt - (1 - a).sqrt() * v) / a.sqrt()
        ),
        tr("this is xt: use v too"): xt,
        tr("every column has its own noise level, not every picture: reshape to (B, 1, 1, 1)"): (
            along.sqrt() * xt - (1 - along).sqrt() * v
        ),
    }
    return compare(
        got, x0, tr("x0 comes back exactly, and nothing is divided by a small number."), causes, 1e-5
    )


def loss_weight(function) -> Verdict:
    """Exercise 4: how much |x0_hat - x0|^2 weighs in the loss on x0, eps and v."""
    a = _alpha_bar()
    snr = a / (1 - a)
    wanted = {"x0": torch.ones_like(a), "eps": snr, "v": snr + 1}
    for prediction, weight in wanted.items():
        got, failed = attempt(function, a.clone(), prediction)
        if failed is not None:
            return _for(prediction, failed)
        if isinstance(got, int | float) and not isinstance(got, bool):
            got = torch.full_like(a, got)  # a bare 1 for x0 is as good as a row of ones
        others = [w for name, w in wanted.items() if name != prediction]
        another = next((w for w in others if _same(got, w, rows=len(w))), others[0])
        causes = _other_weights(prediction, weight, another, a)
        verdict = compare(got, weight, "", causes, 1e-5)
        if not verdict:
            return verdict if verdict in map(because, causes) else _for(prediction, verdict)
    return right(tr("x0 weighs all levels alike, eps by the SNR, and v by the SNR plus 1."))


def _for(prediction, verdict):
    return wrong(tr("for {prediction!r}: {problem}", prediction=prediction, problem=verdict.message))


def _other_weights(prediction, weight, another, a):
    """What is likely wrong -> the weight that it gives."""
    return {
        tr("for {prediction!r} this is the weight of another prediction", prediction=prediction): another,
        tr(
            "for {prediction!r} this is the root of the weight: the error is squared in the loss, so its "
            "factor is squared too",
            prediction=prediction,
        ): weight.sqrt(),
        tr("for {prediction!r} this is the weight upside down", prediction=prediction): 1 / weight,
        tr(
            "for {prediction!r} this is alpha_bar: the SNR is alpha_bar / (1 - alpha_bar)",
            prediction=prediction,
        ): a,
        tr("for {prediction!r} this is the log of the weight", prediction=prediction): weight.log(),
    }


def timestep_embedding(function) -> Verdict:
    """Exercise 5: sines and cosines of t, Vaswani et al. 2017, section 3.5, laid out as in Ho et al. 2020."""
    t, width = torch.tensor([0, 1, 17, 250, 999]), 12
    got, failed = attempt(function, t.clone(), width)
    if failed is not None:
        hint = tr("(t[:, None] has shape (B, 1), and then each t meets each frequency.)")
        return _hinted(failed, hint)
    half = width // 2

    def laid_out(exponents, order=("sin", "cos"), turn=1.0):
        angles = turn * t.double()[:, None] * 10_000.0**-exponents
        return torch.cat([getattr(angles, name)() for name in order], 1)

    i = torch.arange(half).double()
    wanted = laid_out(i / half)
    causes = {
        tr("cosines come first here: put the sines first"): laid_out(i / half, ("cos", "sin")),
        tr("sines and cosines alternate: put all sines first, then all cosines"): (
            torch.stack(wanted.split(half, 1), 2).flatten(1)
        ),
        tr("the exponent goes up to 1: it is i / half, and half itself is not reached"): (
            laid_out(i / (half - 1))
        ),
        tr("the exponent is i / width: divide by half of the width"): laid_out(i / width),
        tr("the exponent is 2 i / half: i already counts pairs"): laid_out(2 * i / half),
        tr("the angles have a factor of 2 pi too much"): laid_out(i / half, turn=2 * math.pi),
        tr("only sines: each frequency needs its cosine too"): laid_out(i / half, ("sin", "sin")),
    }
    if _same(got, laid_out(-i / half), rows=3):  # later angles are too large for float32 to agree about
        return wrong(tr("the frequencies grow: the exponent needs a minus."))
    praise = tr("fast waves tell neighbouring timesteps apart, slow ones tell early from late.")
    return compare(got, wanted, praise, causes, 1e-3)


def _same(got, numbers, rows):
    near = isinstance(got, torch.Tensor) and got.shape == numbers.shape
    return near and torch.allclose(got[:rows].detach().cpu().double(), numbers[:rows], atol=0.02)


def posterior_mean(function) -> Verdict:
    """Exercise 6: the ideal denoiser of a finite set (Karras et al. 2022, appendix B.3)."""
    members, eps = _pictures(24, 1, 7, 1, 3, 4)[0], _pictures(25, 1, 5, 1, 3, 4)[0]
    a = torch.tensor(0.4, dtype=torch.float64)
    xt = a.sqrt() * members[[0, 3, 3, 5, 6]] + (1 - a).sqrt() * eps
    got, failed = attempt(function, xt.clone(), members.clone(), a.clone())
    if failed is not None:
        return failed

    def mean(factor=None, scale=None, axis=1):
        apart = torch.cdist(
            xt.flatten(1), (a.sqrt() if scale is None else scale) * members.flatten(1)
        ).square()
        weight = torch.softmax(apart * (-1 / (2 * (1 - a)) if factor is None else factor), axis)  # (5, 7)
        return (weight @ members.flatten(1)).reshape(xt.shape)

    nearest = torch.cdist(xt.flatten(1), a.sqrt() * members.flatten(1)).argmin(1)
    causes = {
        tr("this is the nearest member: average all of them by their weights"): members[nearest],
        tr("this is the plain mean: weigh the members by how likely each is"): members.mean(0).expand_as(xt),
        tr("the sign is wrong: near members must weigh more, so -distance² goes into the softmax"): (
            mean(1 / (2 * (1 - a)))
        ),
        tr("the 2 is missing: it is distance² / (2 (1 - a))"): mean(-1 / (1 - a)),
        tr("the variance is 1 - a: its root does not belong here"): mean(-1 / (2 * (1 - a).sqrt())),
        tr("the variance is missing: divide distance² by 2 (1 - a)"): mean(-1.0),
        tr("compare xt with sqrt(a) x0, not with x0: the picture has shrunk"): mean(scale=1.0),
        tr("compare xt with sqrt(a) x0: the root is missing"): mean(scale=a),
        tr("the softmax runs over the noisy pictures: it must run over the members"): mean(axis=0),
        tr("take the distance squared"): _not_squared(xt, members, a),
    }
    return compare(
        got, mean(), tr("the average of the members, each weighed by how likely it is."), causes, 1e-5
    )


def _not_squared(xt, members, a):
    apart = torch.cdist(xt.flatten(1), a.sqrt() * members.flatten(1))
    return (torch.softmax(-apart / (2 * (1 - a)), 1) @ members.flatten(1)).reshape(xt.shape)
