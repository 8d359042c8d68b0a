"""The checks of the hackathon: each usual mistake is refused with the sentence that names it."""

import pytest
import torch

from course_utils import check, dreambooth


def stacked(pairs):
    return tuple(torch.stack(part) for part in zip(*pairs, strict=True))


def alternating(s, p):
    return stacked([pair for both in zip(s, p, strict=True) for pair in both])


COLLATE = {
    "nothing came back": lambda s, p: (..., ...),
    "got list, expected a pair": lambda s, p: [*s, *p],
    "kind's examples come first": lambda s, p: stacked([*p, *s]),
    "take turns": alternating,
    "The examples of its kind are missing": lambda s, p: stacked(s),
    "two batches": lambda s, p: tuple(
        torch.stack([a, b]) for a, b in zip(stacked(s), stacked(p), strict=True)
    ),
    "in another order than the latents": lambda s, p: (stacked([*s, *p])[0], stacked([*p, *s])[1]),
    "got torch.float32, expected torch.int64": lambda s, p: (
        stacked([*s, *p])[0],
        stacked([*s, *p])[1].float(),
    ),
    "raised TypeError": lambda s, p: stacked([*s, p]),
}


def halves(output, wanted):
    error = (output - wanted).square()
    return error[: len(error) // 2].mean(), error[len(error) // 2 :].mean()


PRIOR = {
    "the weight is on the subject's half": lambda o, w, k: k * halves(o, w)[0] + halves(o, w)[1],
    "the weight is missing": lambda o, w, k: sum(halves(o, w)),
    "the mean over all": lambda o, w, k: torch.nn.functional.mse_loss(o, w),
    "only the subject's half": lambda o, w, k: halves(o, w)[0],
    "only the second half": lambda o, w, k: k * halves(o, w)[1],
    "add, and don't divide": lambda o, w, k: (halves(o, w)[0] + k * halves(o, w)[1]) / 2,
    "add up to 1": lambda o, w, k: (1 - k) * halves(o, w)[0] + k * halves(o, w)[1],
    "cut in the middle": lambda o, w, k: (o - w).square()[::2].mean() + k * (o - w).square()[1::2].mean(),
    "not squared": lambda o, w, k: (o - w).abs()[:3].mean() + k * (o - w).abs()[3:].mean(),
    "these are sums": lambda o, w, k: (o - w).square()[:3].sum() + k * (o - w).square()[3:].sum(),
    "got shape": lambda o, w, k: (o - w).square(),
}
MERGE = {
    "the scale is missing": lambda w, a, b, alpha: w + b @ a,
    "the rank is missing": lambda w, a, b, alpha: w + alpha * b @ a,
    "upside down": lambda w, a, b, alpha: w + len(a) / alpha * b @ a,
    "the rank is their number": lambda w, a, b, alpha: w + alpha / a.shape[1] * b @ a,
    "the rank is B's other side": lambda w, a, b, alpha: w + alpha / len(b) * b @ a,
    "this is the change alone": lambda w, a, b, alpha: alpha / len(a) * b @ a,
    "subtracted": lambda w, a, b, alpha: w - alpha / len(a) * b @ a,
    "nothing was merged": lambda w, a, b, alpha: w,
    "B comes first": lambda w, a, b, alpha: w + alpha / len(a) * a @ b,
    "got shape": lambda w, a, b, alpha: (w + alpha / len(a) * b @ a).T,
}


def best(steps, subject, prior, floor):
    kept = [i for i in range(len(steps)) if prior[i] >= floor] or [
        max(range(len(steps)), key=prior.__getitem__)
    ]
    return steps[max(kept, key=lambda i: subject[i])]


BEST = {
    "has forgotten too much": lambda s, a, b, f: s[max(range(len(s)), key=a.__getitem__)],
    "knows the subject less well": lambda s, a, b, f: s[0],
    "keeps exactly the floor": lambda s, a, b, f: best(s, a, b, f + 1e-9),
    "its place in the list": lambda s, a, b, f: s.index(best(s, a, b, f)),
    "take the first": lambda s, a, b, f: s[
        max((i for i in range(len(s)) if b[i] >= f), key=lambda i: (a[i], i), default=0)
    ],
    "none keeps enough": lambda s, a, b, f: best(s, a, b, f) if max(b) >= f else s[-1],
    "expected one of [0, 40": lambda s, a, b, f: -7,
    "raised ValueError": lambda s, a, b, f: max(x for x in a if x > 2),
    "got list, expected a step": lambda s, a, b, f: [40],
}
WRONG = {"collate": COLLATE, "prior_loss": PRIOR, "merge": MERGE, "best_snapshot": BEST}
RIGHT = {
    "collate": [dreambooth.collate, lambda s, p: list(stacked([*s, *p]))],
    "prior_loss": [
        lambda o, w, k: halves(o, w)[0] + k * halves(o, w)[1],
        lambda o, w, k: sum(
            f * torch.nn.functional.mse_loss(a, b)
            for f, a, b in zip((1, k), o.chunk(2), w.chunk(2), strict=True)
        ).item(),
    ],
    "merge": [
        lambda w, a, b, alpha: w + alpha / a.shape[0] * b @ a,
        lambda w, a, b, alpha: w + torch.einsum("or,ri->oi", b, a) * (alpha / b.shape[1]),
    ],
    "best_snapshot": [best, lambda *told: torch.tensor(best(*told))],
}


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, table in WRONG.items() for words in table]
)
def test_a_usual_mistake_is_named(name, words):
    verdict = getattr(check.dreambooth, name)(WRONG[name][words])
    assert not verdict and words in verdict.message


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name, all_right in RIGHT.items() for i in range(len(all_right))]
)
def test_a_right_answer_is_right_however_it_is_written(name, i):
    verdict = getattr(check.dreambooth, name)(RIGHT[name][i])
    assert verdict, verdict.message


def test_the_notebooks_rule_is_that_of_peft():
    """The merge of exercise 3, against peft's own."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(7, 5, bias=False))
    w = network[0].weight.detach().clone()
    adapted = get_peft_model(
        network, LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    )
    layer = adapted.base_model.model[0]
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    merged = adapted.merge_and_unload()[0].weight
    assert (RIGHT["merge"][0](w, a, b, 6.0) - merged).abs().max() < 1e-6
