"""Checks of unit3/02_stable_diffusion_deep_dive."""

from __future__ import annotations

import torch

from course_utils.check.verdict import Verdict, attempt, because, compare, empty, right, wrong
from course_utils.messages import tr


def causal_mask(function) -> Verdict:
    """Exercise 1: what, added to the scores, keeps tokens from looking ahead (Vaswani et al. 2017, 3.2.3)."""
    length = 6
    got, failed = attempt(function, length)
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    if not isinstance(got, torch.Tensor) or got.shape != (length, length):
        came = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
        return wrong(
            tr(
                "got {came}, expected a tensor of shape ({length}, {length}): a row for each token.",
                came=came,
                length=length,
            )
        )
    if not got.is_floating_point():
        return wrong(
            tr(
                "got numbers of type {dtype}, expected float ones: they are added to the scores.",
                dtype=got.dtype,
            )
        )
    scores = torch.randn((length, length), generator=torch.Generator().manual_seed(41), dtype=torch.float64)
    share = (scores + got.detach().cpu()).softmax(-1)
    seen, past = share > 0, torch.ones(length, length).bool().tril()
    if torch.equal(seen, past) and torch.allclose(share, (scores + _minus_infinity(past)).softmax(-1)):
        return right(tr("each token sees itself and what stands before it, with its scores unchanged."))
    named = {
        tr("each token sees itself and what comes after it: the mask is the wrong way round"): past.T,
        tr("a token does not see itself: the diagonal is allowed too"): past.tril(-1),
        tr("each token sees the next one too: begin one to the right of the diagonal"): (
            torch.ones_like(past).tril(1)
        ),
    }
    for cause, allowed in named.items():
        if torch.equal(seen[1:-1], allowed[1:-1]):  # at the ends a row may have nothing to see
            return because(cause)
    if seen.all():
        return wrong(
            tr("every token still sees every other: the mask is added, so what is forbidden needs -inf.")
        )
    return wrong(
        tr(
            "{wrong} of {count} entries are wrong, or a score is changed.",
            wrong=(seen != past).sum(),
            count=length * length,
        )
    )


def _minus_infinity(allowed):
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -torch.inf)


def swap(function) -> Verdict:
    """Exercise 2: another vector wherever a token stands (Gal et al. 2022, section 3)."""
    generator = torch.Generator().manual_seed(42)
    embedded, vector = torch.randn((3, 5, 4), generator=generator), torch.randn(4, generator=generator)
    tokens, token = torch.tensor([[9, 3, 7, 3, 1], [9, 5, 1, 1, 1], [9, 2, 4, 3, 1]]), 3
    given = embedded.clone()
    got, failed = attempt(function, given, tokens.clone(), token, vector.clone())
    if failed is not None:
        return failed
    here = (tokens == token)[:, :, None]  # (3, 5, 1)
    first = here & (here.cumsum(1) == 1)
    wanted = torch.where(here, vector, embedded)
    causes = {
        tr("nothing was swapped: tokens == token says where"): embedded,
        tr("everything else was swapped: the two branches have changed places"): (
            torch.where(here, embedded, vector)
        ),
        tr("only the first one in each prompt was swapped: take all of them"): (
            torch.where(first, vector, embedded)
        ),
        tr("only the first prompt was looked at"): torch.cat([wanted[:1], embedded[1:]]),
        tr("the vector was added, not put in the place of the old one"): (
            torch.where(here, embedded + vector, embedded)
        ),
    }
    verdict = compare(got, wanted, tr("the word means something else now, wherever it stands."), causes)
    if verdict and not torch.equal(given, embedded):
        return wrong(
            tr("the given embeddings were changed in place: return new ones, the old are still needed.")
        )
    return verdict


def mix(function) -> Verdict:
    """Exercise 3: between two prompts, in the text encoder's states."""
    first, second = torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(43), dtype=torch.float64)
    share = 0.3
    got, failed = attempt(function, first.clone(), second.clone(), share)
    if failed is not None:
        return failed
    causes = {
        tr("first and second have changed places: share 0 is the first prompt"): (
            share * first + (1 - share) * second
        ),
        tr("this is half of each whatever the share"): (first + second) / 2,
        tr("this is a sum: the weights must add up to 1"): first + share * second,
        tr("the weights are roots, as for noise: here they add up to 1 themselves"): (
            (1 - share) ** 0.5 * first + share**0.5 * second
        ),
        tr("only the difference came back: add it to the first"): share * (second - first),
        tr("this is cut together along the tokens, not mixed"): torch.cat([first[:, :5], second[:, 5:]], 1),
    }
    return compare(
        got, (1 - share) * first + share * second, tr("share 0 is the first, 1 the second."), causes
    )


def attention(function) -> Verdict:
    """Exercise 4: how much each pixel listens to each token (Vaswani et al. 2017, eq. 1, without V)."""
    generator = torch.Generator().manual_seed(44)
    query = torch.randn((2, 6, 9), generator=generator, dtype=torch.float64)
    key = torch.randn((2, 4, 9), generator=generator, dtype=torch.float64)
    got, failed = attempt(function, query.clone(), key.clone())
    if failed is not None:
        return failed
    scores = query @ key.transpose(1, 2)  # (2, 6, 4)
    causes = {
        tr("the scores are not divided: by the root of d, the width of a query"): scores.softmax(-1),
        tr("you divided by d: take its root"): (scores / 9).softmax(-1),
        tr("you divided by the root of the number of tokens: d is the width of a query"): (
            (scores / 2).softmax(-1)
        ),
        tr("you multiplied by the root of d: divide"): (scores * 3).softmax(-1),
        tr("the softmax runs over the pixels: each pixel's shares must add up to 1 over the tokens"): (
            (scores / 3).softmax(1)
        ),
        tr("the softmax is missing"): scores / 3,
        tr("the softmax runs over the batch"): (scores / 3).softmax(0),
    }
    praise = tr("at each pixel the shares of the tokens add up to 1.")
    return compare(got, (scores / 3).softmax(-1), praise, causes, 1e-5)


def overlap(function) -> Verdict:
    """Exercise 5: intersection over union of two areas."""
    a, b = torch.zeros(2, 8, 8).bool()
    a[1:6, 1:5], b[2:8, 3:8] = True, True  # 20 and 30 pixels, 8 in common
    got, failed = attempt(function, a.clone(), b.clone())
    if failed is not None:
        return failed
    both, either = (a & b).sum().double(), (a | b).sum().double()
    causes = {
        tr("this is the share of the first area: divide by the union"): both / a.sum(),
        tr("this is the share of the second area: divide by the union"): both / b.sum(),
        tr("this is 2 common / (first + second), the Dice score: related, and always larger"): (
            2 * both / (a.sum() + b.sum())
        ),
        tr("the union counts what is common once, not twice"): both / (a.sum() + b.sum()),
        tr(
            "this is the share of all pixels on which both agree: most are background, and count for nothing"
        ): (a == b).double().mean(),
        tr("this is the share of all pixels that is common: divide by the union"): both / a.numel(),
        tr("upside down: common over united"): either / both,
    }
    return compare(got, both / either, tr("1 if the areas are the same, 0 if they are apart."), causes, 1e-6)
