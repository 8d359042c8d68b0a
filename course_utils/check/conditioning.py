"""Checks of unit2/02_class_conditioned_diffusion_model_example."""

from __future__ import annotations

import torch
from torch import nn

from course_utils.check.verdict import Verdict, attempt, compare, empty, right, wrong
from course_utils.messages import tr

NONE = 10  # the label that says nothing


def class_channels(function) -> Verdict:
    """Exercise 1: the embedding of the label, spread over the picture, beside xt."""
    generator = torch.Generator().manual_seed(31)
    xt, label = torch.randn((5, 1, 3, 4), generator=generator), torch.tensor([7, 0, 7, 3, 9])
    embedding = nn.Embedding(11, 2)
    embedding.weight.data = torch.randn((11, 2), generator=generator)
    got, failed = attempt(function, xt.clone(), label.clone(), embedding)
    if failed is not None:
        return failed
    rows = embedding.weight.detach()[label]  # (5, 2)
    planes = rows[:, :, None, None].expand(-1, -1, 3, 4)
    order = embedding.weight.detach()[label.sort().values][:, :, None, None].expand(-1, -1, 3, 4)
    causes = {
        tr("the planes come first: the picture first, as the network's first channel"): (
            torch.cat([planes, xt], 1)
        ),
        tr("the labels have lost their order: each picture gets the planes of its own"): (
            torch.cat([xt, order], 1)
        ),
    }
    return compare(
        got, torch.cat([xt, planes], 1), tr("each picture carries its class at every place."), causes
    )


def drop_labels(function) -> Verdict:
    """Exercise 2: a label becomes "none" with a given probability, each for itself."""
    label, share = torch.arange(4000) % 10, 0.3
    before = label.clone()
    got, failed = attempt(function, label, share, torch.Generator().manual_seed(32))
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    if not isinstance(got, torch.Tensor) or got.shape != label.shape:
        came = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
        return wrong(
            tr("got {came}, expected a tensor of shape (4000,): one label for each picture.", came=came)
        )
    if got.dtype != torch.int64:
        return wrong(
            tr(
                "got labels of type {dtype}, expected torch.int64: torch.where keeps the type.",
                dtype=got.dtype,
            )
        )
    if not torch.equal(label, before):
        return wrong(
            tr("the given labels were changed in place: the caller still needs them, return new ones.")
        )
    dropped = got != label
    if not (got[dropped] == NONE).all():
        return wrong(
            tr("some labels became another digit: a dropped label is {none}, which says nothing.", none=NONE)
        )
    return _dropped_share(dropped, share, function, label)


def _dropped_share(dropped, share, function, label):
    """Is the share right, each picture's fate its own, and the chance that of the generator?"""
    found = dropped.double().mean().item()
    if found in (0.0, 1.0):
        return wrong(tr("all labels of the batch share one fate: draw one random number for each."))
    if abs(found - (1 - share)) < 0.03:
        return wrong(
            tr(
                "{found:.0%} were dropped, expected {share:.0%}: the comparison is the wrong way round.",
                found=found,
                share=share,
            )
        )
    if abs(found - share) > 0.03:
        return wrong(tr("{found:.0%} were dropped, expected about {share:.0%}.", found=found, share=share))
    again, failed = attempt(function, label, share, torch.Generator().manual_seed(32))
    if failed is not None or not torch.equal(again != label, dropped):
        return wrong(tr("the same generator gives another result: pass it to torch.rand(generator=...)."))
    other, failed = attempt(function, label, share, torch.Generator().manual_seed(33))
    if failed is not None or torch.equal(other != label, dropped):
        return wrong(
            tr("a generator with another seed drops the same labels: take the chance from the given one.")
        )
    return right(tr("each label is dropped by a chance of its own, and repeatable from a seed."))


def guided(function) -> Verdict:
    """Exercise 3: classifier-free guidance, Ho & Salimans 2022, eq. 6, with scale = w + 1."""
    conditional, unconditional = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(33))
    scale = 2.5
    got, failed = attempt(function, conditional.clone(), unconditional.clone(), scale)
    if failed is not None:
        return failed
    causes = {
        tr("conditional and unconditional have changed places"): (
            conditional + scale * (unconditional - conditional)
        ),
        tr("this is the paper's w, where 0 is off; here 1 is off: begin at the unconditional one"): (
            conditional + scale * (conditional - unconditional)
        ),
        tr("this is their mix with weights that add up to more than 1"): unconditional + scale * conditional,
        tr("the difference is missing: how far is it from the unconditional to the conditional?"): (
            scale * conditional
        ),
        tr("only the difference came back: add it to the unconditional one"): (
            scale * (conditional - unconditional)
        ),
    }
    wanted = unconditional + scale * (conditional - unconditional)
    return compare(
        got, wanted, tr("scale 0 ignores the class, 1 is the model itself, more exaggerates."), causes
    )


def both_answers(function) -> Verdict:
    """Exercise 4: the answers with the class and without it, from one call of the network."""
    generator, lengths = torch.Generator().manual_seed(34), []
    xt, t = torch.randn((3, 1, 2, 4), generator=generator), torch.tensor([900, 20, 430])
    label, effect = torch.tensor([4, 9, 1]), torch.randn((11, 1, 1, 1), generator=generator)

    def model(xt, t, label):
        lengths.append(len(xt))
        return torch.tanh(xt + t.reshape(-1, 1, 1, 1) / 500) * effect[label]

    got, failed = attempt(function, model, xt.clone(), t.clone(), label.clone())
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    pair = isinstance(got, (tuple, list)) and all(isinstance(x, torch.Tensor) for x in got)
    if not pair or [x.shape for x in got] != [xt.shape] * 2:
        return wrong(
            tr("expected two answers, each of the shape of xt, (B, 1, H, W): cut what comes in two.")
        )
    if lengths != [2 * len(xt)]:
        return wrong(
            tr(
                "the network was called with batches of {lengths}, expected one of {double} once.",
                lengths=lengths,
                double=2 * len(xt),
            )
        )
    with_class, without = model(xt, t, label), model(xt, t, torch.full_like(label, NONE))
    mixed = torch.stack([with_class, without], 1).flatten(0, 1).reshape(2, *xt.shape)
    causes = {
        tr("they have changed places: the one with the class comes first"): (
            torch.stack([without, with_class])
        ),
        tr("the copies lie side by side, so each half holds some of both: torch.cat lays them in a row"): (
            mixed
        ),
        tr("both halves have the class: the second one's labels are all 10"): torch.stack([with_class] * 2),
        tr("neither half has the class: the first one's labels are the given ones"): (
            torch.stack([without] * 2)
        ),
    }
    praise = tr("one call, a batch of twice the length, two answers.")
    return compare(torch.stack(tuple(got)), torch.stack([with_class, without]), praise, causes)
