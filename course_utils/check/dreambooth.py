"""Checks of hackathon/dreambooth."""

from __future__ import annotations

import torch

from course_utils.check.verdict import Verdict, attempt, compare, empty, right, wrong
from course_utils.messages import tr


def collate(function) -> Verdict:
    """Exercise 1: a batch of the subject's examples with as many of its kind's behind them."""
    generator = torch.Generator().manual_seed(61)
    z = torch.randn((6, 4, 2, 3), generator=generator)
    text = torch.randint(0, 500, (6, 5), generator=generator)
    examples = list(zip(z, text, strict=True))
    subject, prior = examples[:3], examples[3:]
    got, failed = attempt(function, list(subject), list(prior))
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    if not isinstance(got, tuple | list) or len(got) != 2:
        return wrong(
            tr(
                "got {kind}, expected a pair: the latents, and the tokens that belong to them.",
                kind=type(got).__name__,
            )
        )
    if got[0] is None or got[0] is Ellipsis:
        return empty()
    turned, between = [3, 4, 5, 0, 1, 2], [0, 3, 1, 4, 2, 5]
    orders = {
        tr("the kind's examples come first: the loss takes the first half for the subject"): z[turned],
        tr("the two take turns: all of the subject's first, for the loss cuts the batch in the middle"): (
            z[between]
        ),
    }
    verdict = _part(tr("latents"), got[0], z, orders)
    if verdict and isinstance(got[1], torch.Tensor) and got[1].dtype != torch.int64:
        problem = tr("got {dtype}, expected torch.int64, as they came.", dtype=got[1].dtype)
        return _about(tr("tokens"), problem)
    orders = {tr("they are in another order than the latents"): text[turned]}
    return verdict and _part(tr("tokens"), got[1], text, orders)


def _part(name, got, wanted, orders):
    """The verdict on one half of the pair."""
    praise = tr("one batch, one pass: the subject in the first half, its kind in the second.")
    verdict = compare(got, wanted, praise, orders)
    hints = {
        tuple(wanted[:3].shape): tr("The examples of its kind are missing."),
        (2, *wanted[:3].shape): tr(
            "These are two batches: put one behind the other, so that one pass will do."
        ),
    }
    hint = hints.get(tuple(getattr(got, "shape", ())))
    return verdict or _about(name, f"{verdict.message} {hint}" if hint else verdict.message)


def _about(name, problem):
    return wrong(tr("for the {part}: {problem}", part=name, problem=problem))


def prior_loss(function) -> Verdict:
    """Exercise 2: the loss with prior preservation, Ruiz et al. 2023, eq. 2."""
    generator = torch.Generator().manual_seed(62)
    output, wanted = torch.randn((2, 6, 2, 3, 3), generator=generator, dtype=torch.float64)
    output[3:] *= 2
    weight = 0.3
    got, failed = attempt(function, output.clone(), wanted.clone(), weight)
    if failed is not None:
        return failed
    error = (output - wanted).square()
    own, kind = error[:3].mean(), error[3:].mean()
    absolute = (output - wanted).abs()
    causes = {
        tr("the weight is on the subject's half, the first: it belongs to the second"): weight * own + kind,
        tr("the weight is missing: the second half counts as much as the first"): own + kind,
        tr("this is the mean over all: cut the batch in two and weigh the halves"): error.mean(),
        tr("only the subject's half counts: the second half keeps the rest as it was"): own,
        tr("only the second half counts"): weight * kind,
        tr("a weight of 1 would make this a mean of the two: add, and don't divide"): (
            (own + weight * kind) / 2
        ),
        tr("the weights add up to 1 here; in the paper the subject's half keeps the weight 1"): (
            (1 - weight) * own + weight * kind
        ),
        tr("every second picture was taken for the subject's: the batch is cut in the middle"): (
            error[::2].mean() + weight * error[1::2].mean()
        ),
        tr("the errors are not squared"): absolute[:3].mean() + weight * absolute[3:].mean(),
        tr("these are sums: take the mean of each half"): error[:3].sum() + weight * error[3:].sum(),
        tr("the root of the weight has no place here"): own + weight**0.5 * kind,
    }
    praise = tr("the subject with weight 1, what must stay with the weight that you choose.")
    return compare(got, own + weight * kind, praise, causes, 1e-6)


def merge(function) -> Verdict:
    """Exercise 3: an adapter merged into its matrix, Hu et al. 2022, eq. 3."""
    generator = torch.Generator().manual_seed(63)
    w = torch.randn((5, 7), generator=generator, dtype=torch.float64)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 7), (5, 2)))
    alpha = 6.0
    got, failed = attempt(function, w.clone(), a.clone(), b.clone(), alpha)
    if failed is not None:
        if "shapes cannot be multiplied" in failed.message:
            hint = tr("(B is (out, rank) and A is (rank, in): B comes first.)")
            return wrong(f"{failed.message} {hint}")
        return failed
    causes = {
        tr("the scale is missing: alpha / rank"): w + b @ a,
        tr("the rank is missing: divide alpha by it"): w + alpha * b @ a,
        tr("the scale is upside down: alpha / rank"): w + 2 / alpha * b @ a,
        tr("alpha is divided by the width of A's rows; the rank is their number"): w + alpha / 7 * b @ a,
        tr("alpha is divided by the height of B, which is the layer's width: the rank is B's other side"): (
            w + alpha / 5 * b @ a
        ),
        tr("this is the change alone: add it to W"): alpha / 2 * b @ a,
        tr("the change is subtracted"): w - alpha / 2 * b @ a,
        tr("this is W: nothing was merged"): w,
    }
    wanted = w + alpha / 2 * b @ a
    return compare(got, wanted, tr("the same layer, and no second product at every call."), causes, 1e-6)


def best_snapshot(function) -> Verdict:
    """Exercise 4: the snapshot to keep: the best subject score among those that keep enough of the prior."""
    steps = [0, 40, 80, 120, 160, 200]
    cases = [
        ([0.0, 0.5, 0.8, 0.9, 0.97, 1.0], [1.0, 1.0, 0.98, 0.96, 0.9, 0.7], 0.95, 120),
        ([0.1, 0.9, 0.9, 0.7, 0.9, 0.6], [1.0, 0.97, 0.99, 0.99, 0.96, 0.99], 0.95, 40),
        ([0.2, 0.4, 0.6, 0.5, 0.9, 0.95], [1.02, 0.95, 0.9, 0.96, 0.8, 0.8], 0.95, 120),
        ([0.3, 0.6, 0.8, 0.9, 0.9, 0.9], [0.9, 0.94, 0.7, 0.6, 0.5, 0.4], 0.95, 40),
        ([0.1, 0.5, 0.9, 0.7, 0.95, 1.0], [1.0, 0.98, 0.95, 0.96, 0.9, 0.8], 0.95, 80),
    ]
    for subject, prior, floor, wanted in cases:
        got, failed = attempt(function, list(steps), list(subject), list(prior), floor)
        if failed is not None:
            return failed
        if got is None or got is Ellipsis:
            return empty()
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = got.item()
        if isinstance(got, bool) or not isinstance(got, int | float):
            return wrong(
                tr("got {kind}, expected a step, one of {steps}.", kind=type(got).__name__, steps=steps)
            )
        if got != wanted:
            return wrong(_misread(got, steps, subject, prior, floor, wanted))
    return right(tr("as well learned as can be, with little forgotten, and no step longer than needed."))


def _misread(got, steps, subject, prior, floor, wanted):
    """Why a step is the wrong one."""
    table = tr(
        "subject {subject}, prior {prior} and a floor of {floor}", subject=subject, prior=prior, floor=floor
    )
    if got not in steps:
        if 0 <= got < len(steps) and steps[int(got)] == wanted:
            return tr("got {got}: this is its place in the list: return the step itself.", got=got)
        return tr("got {got}: expected one of {steps}.", got=got, steps=steps)
    at = steps.index(got)
    if max(prior) < floor:
        return tr(
            "with {table}, none keeps enough: then take the one that keeps most, step {wanted}, not {got}.",
            table=table,
            wanted=wanted,
            got=got,
        )
    if prior[at] < floor:
        return tr(
            "with {table}, step {got} has forgotten too much ({kept}): only {floor} and more count.",
            table=table,
            got=got,
            kept=prior[at],
            floor=floor,
        )
    best = steps.index(wanted)
    if prior[best] == floor and subject[at] < subject[best]:
        return tr(
            "with {table}, step {wanted} keeps exactly the floor, and that is enough: at least, not more.",
            table=table,
            wanted=wanted,
        )
    if subject[at] < subject[best]:
        return tr(
            "with {table}, step {got} knows the subject less well ({score}) than step {wanted} does.",
            table=table,
            got=got,
            score=subject[at],
            wanted=wanted,
        )
    return tr(
        "with {table}, step {got} is no better than step {wanted}, which took less training: take the first.",
        table=table,
        got=got,
        wanted=wanted,
    )
