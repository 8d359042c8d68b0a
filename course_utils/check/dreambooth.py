"""Checks of hackathon/dreambooth."""

from __future__ import annotations

import torch

from course_utils.check.verdict import EMPTY, Verdict, attempt, compare, right, wrong


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
        return EMPTY
    if not isinstance(got, tuple | list) or len(got) != 2:
        return wrong(
            f"got {type(got).__name__}, expected a pair: the latents, and the tokens that belong to them."
        )
    if got[0] is None or got[0] is Ellipsis:
        return EMPTY
    turned, between = [3, 4, 5, 0, 1, 2], [0, 3, 1, 4, 2, 5]
    orders = {
        "the kind's examples come first: the loss takes the first half for the subject": z[turned],
        "the two take turns: all of the subject's first, for the loss cuts the batch in the middle": z[
            between
        ],
    }
    verdict = _part("latents", got[0], z, orders)
    if verdict and isinstance(got[1], torch.Tensor) and got[1].dtype != torch.int64:
        return wrong(f"for the tokens: got {got[1].dtype}, expected torch.int64, as they came.")
    return verdict and _part(
        "tokens", got[1], text, {"they are in another order than the latents": text[turned]}
    )


def _part(name, got, wanted, orders):
    """The verdict on one half of the pair."""
    verdict = compare(
        got, wanted, "one batch, one pass: the subject in the first half, its kind in the second.", orders
    )
    shape = tuple(getattr(got, "shape", ()))
    hint = {
        tuple(wanted[:3].shape): " The examples of its kind are missing.",
        (2, *wanted[:3].shape): " These are two batches: put one behind the other, so that one pass will do.",
    }.get(shape, "")
    return verdict or wrong(f"for the {name}: {verdict.message}{hint}")


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
        "the weight is on the subject's half, the first: it belongs to the second": weight * own + kind,
        "the weight is missing: the second half counts as much as the first": own + kind,
        "this is the mean over all: cut the batch in two and weigh the halves": error.mean(),
        "only the subject's half counts: the second half keeps the rest as it was": own,
        "only the second half counts": weight * kind,
        "a weight of 1 would make this a mean of the two: add, and don't divide": (own + weight * kind) / 2,
        "the weights add up to 1 here; in the paper the subject's half keeps the weight 1": (1 - weight) * own
        + weight * kind,
        "every second picture was taken for the subject's: the batch is cut in the middle": error[::2].mean()
        + weight * error[1::2].mean(),
        "the errors are not squared": absolute[:3].mean() + weight * absolute[3:].mean(),
        "these are sums: take the mean of each half": error[:3].sum() + weight * error[3:].sum(),
        "the root of the weight has no place here": own + weight**0.5 * kind,
    }
    praise = "the subject with weight 1, what must stay with the weight that you choose."
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
            return wrong(f"{failed.message} (B is (out, rank) and A is (rank, in): B comes first.)")
        return failed
    causes = {
        "the scale is missing: alpha / rank": w + b @ a,
        "the rank is missing: divide alpha by it": w + alpha * b @ a,
        "the scale is upside down: alpha / rank": w + 2 / alpha * b @ a,
        "alpha is divided by the width of A's rows; the rank is their number": w + alpha / 7 * b @ a,
        "alpha is divided by the height of B, which is the layer's width: the rank is B's other side": w
        + alpha / 5 * b @ a,
        "this is the change alone: add it to W": alpha / 2 * b @ a,
        "the change is subtracted": w - alpha / 2 * b @ a,
        "this is W: nothing was merged": w,
    }
    wanted = w + alpha / 2 * b @ a
    return compare(got, wanted, "the same layer, and no second product at every call.", causes, 1e-6)


def best_snapshot(function) -> Verdict:
    """Exercise 4: the snapshot to keep: the best subject score among those that keep enough of the prior."""
    steps = [0, 40, 80, 120, 160, 200]
    cases = [
        ([0.0, 0.5, 0.8, 0.9, 0.97, 1.0], [1.0, 1.0, 0.98, 0.96, 0.9, 0.7], 0.95, 120),
        ([0.1, 0.9, 0.9, 0.7, 0.9, 0.6], [1.0, 0.97, 0.99, 0.99, 0.96, 0.99], 0.95, 40),
        ([0.2, 0.4, 0.6, 0.5, 0.9, 0.95], [1.02, 0.95, 0.9, 0.96, 0.8, 0.8], 0.95, 120),
        ([0.3, 0.6, 0.8, 0.9, 0.9, 0.9], [0.9, 0.94, 0.7, 0.6, 0.5, 0.4], 0.95, 40),
    ]
    for subject, prior, floor, wanted in cases:
        got, failed = attempt(function, list(steps), list(subject), list(prior), floor)
        if failed is not None:
            return failed
        if got is None or got is Ellipsis:
            return EMPTY
        if isinstance(got, torch.Tensor) and got.numel() == 1:
            got = got.item()
        if isinstance(got, bool) or not isinstance(got, int | float):
            return wrong(f"got {type(got).__name__}, expected a step, one of {steps}.")
        if got != wanted:
            return wrong(_misread(got, steps, subject, prior, floor, wanted))
    return right("as well learned as can be, with little forgotten, and no step longer than needed.")


def _misread(got, steps, subject, prior, floor, wanted):
    """Why a step is the wrong one."""
    table = f"subject {subject}, prior {prior} and a floor of {floor}"
    if got not in steps:
        place = 0 <= got < len(steps) and steps[int(got)] == wanted
        hint = (
            "this is its place in the list: return the step itself" if place else f"expected one of {steps}"
        )
        return f"got {got}: {hint}."
    at = steps.index(got)
    if max(prior) < floor:
        return (
            f"with {table}, none keeps enough: then take the one that keeps most, step {wanted}, not {got}."
        )
    if prior[at] < floor:
        return f"with {table}, step {got} has forgotten too much ({prior[at]}): only {floor} and more count."
    if subject[at] < subject[steps.index(wanted)]:
        return (
            f"with {table}, step {got} knows the subject less well ({subject[at]}) than step {wanted} does."
        )
    return (
        f"with {table}, step {got} is no better than step {wanted}, which took less training: take the first."
    )
