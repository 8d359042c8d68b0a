"""The checks of notebook unit2/01: each usual mistake is refused with the sentence that names it."""

import pytest
import torch

from course_utils import check, diffusion


def eta_step(share=1.0, power=1.0, keep=True, rooted=True, noisy=True):
    def step(xt, x0_hat, a, a_next, eta, noise):
        product = (1 - a_next) / (1 - a) * (1 - a / a_next)
        std = eta**power * (product**0.5 if rooted else product) * share
        eps = (xt - a.sqrt() * x0_hat) / (1 - a).sqrt()
        left = (1 - a_next - std**2 * keep).sqrt()
        return a_next.sqrt() * x0_hat + left * eps + std * noise * noisy

    return step


def variance_as_factor(xt, x0_hat, a, a_next, eta, noise):
    std = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
    return eta_step(noisy=False)(xt, x0_hat, a, a_next, eta, noise) + std**2 * noise


STEP = {
    "too noisy": eta_step(keep=False),
    "no new noise": eta_step(share=0),
    "eta = 1: eta multiplies": eta_step(power=0),
    "eta was squared": eta_step(power=2),
    "root of the product": eta_step(rooted=False),
    "but there is none": eta_step(noisy=False),
    "its variance": variance_as_factor,
    "got shape": lambda xt, *others: xt[0],
}


def gather(model, loss, batches, share=None, clear=False, weighted=False):
    for batch in batches:
        if clear:
            model.zero_grad()
        value = loss(model, batch) / (share or 1)
        value.backward(value if weighted else None)


def and_step(model, loss, batches):
    gather(model, loss, batches, 3)
    torch.optim.SGD(model.parameters(), 0.1).step()


ACCUMULATE = {
    "3 times as large": gather,
    "only the last batch is in them: ": lambda m, f, b: gather(m, f, b, clear=True),
    "only the last batch is in them, divided": lambda m, f, b: gather(m, f, b, 3, clear=True),
    "not by that of pictures": lambda m, f, b: gather(m, f, b, 4),
    "all pictures": lambda m, f, b: gather(m, f, b, 12),
    "call .backward() with nothing": lambda m, f, b: gather(m, f, b, weighted=True),
    "call .backward() alone": lambda m, f, b: gather(m, f, b, 3, weighted=True),
    "at once": lambda m, f, b: f(m, torch.cat(b)).backward(),
    "weights have changed": and_step,
    "no gradients": lambda m, f, b: [f(m, x) for x in b],
}


def off(x, c):
    return x - c.reshape(1, 3, 1, 1)


COLOUR = {
    "along the width": lambda x, c: (x - c).square().mean((1, 2, 3)),
    "absolute": lambda x, c: off(x, c).abs().mean((1, 2, 3)),
    "this is the sum": lambda x, c: off(x, c).square().sum((1, 2, 3)),
    "pass for grey": lambda x, c: off(x, c).mean((2, 3)).square().mean(1),
    "this is the root": lambda x, c: off(x, c).square().mean((1, 2, 3)).sqrt(),
    "no mean over the batch": lambda x, c: off(x, c).square().mean(),
}


def guide(
    sign=-1, factor=lambda a: (1 - a) / a.sqrt(), reduce=torch.sum, index=None, weighted=False, move=None
):
    def guided(denoise, loss, xt, t, alpha_bar, scale):
        xt = xt.requires_grad_()
        x0_hat = denoise(xt, t)
        losses = loss(x0_hat)
        value = (losses * losses.detach()).sum() if weighted else reduce(losses)
        (gradient,) = torch.autograd.grad(value, xt)
        a = diffusion.at(alpha_bar, t if index is None else index, xt)
        start = {"xt": xt, "nothing": 0, None: x0_hat}[move]
        return start + sign * scale * factor(a) * gradient

    return guided


def to_x0_hat_alone(denoise, loss, xt, t, alpha_bar, scale):
    x0_hat = denoise(xt, t).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x0_hat).sum(), x0_hat)
    a = diffusion.at(alpha_bar, t, xt)
    return x0_hat - scale * (1 - a) / a.sqrt() * gradient


GUIDED = {
    "away from what is wanted": guide(sign=1),
    "without guidance": guide(sign=0),
    "back through the network": to_x0_hat_alone,
    "sqrt(alpha_bar) is missing": guide(factor=torch.ones_like),
    "the root is missing": guide(factor=lambda a: (1 - a) / a),
    "below the line": guide(factor=lambda a: 1 - a),
    "the factor for eps_hat": guide(factor=lambda a: (1 - a).sqrt()),
    "place in the batch": guide(index=torch.arange(3)),
    "averaged over the batch": guide(reduce=torch.mean),
    "multiplies each gradient": guide(weighted=True),
    "xt was moved": guide(move="xt"),
    "only the push": guide(sign=1, move="nothing"),
}


def fit(seen, text):
    return torch.cosine_similarity(seen, text)


CLIP = {
    "are mixed": lambda s, t, k: 1 - fit(s, t).reshape(-1, k).mean(1),
    "a loss must fall": lambda s, t, k: fit(s, t).reshape(k, -1).mean(0),
    "not of length 1": lambda s, t, k: 1 - (s @ t[0]).reshape(k, -1).mean(0),
    "sum over the cut-outs": lambda s, t, k: (1 - fit(s, t)).reshape(k, -1).sum(0),
    "only the best": lambda s, t, k: 1 - fit(s, t).reshape(k, -1).amax(0),
    "the 1 is missing": lambda s, t, k: -fit(s, t).reshape(k, -1).mean(0),
    "mean over its 4": lambda s, t, k: 1 - fit(s, t),
}
WRONG = [
    pytest.param(getattr(check.finetuning, name), answer, words, id=f"{name}-{words}")
    for name, answers in (
        ("eta_step", STEP),
        ("accumulation", ACCUMULATE),
        ("colour_loss", COLOUR),
        ("guided", GUIDED),
        ("clip_loss", CLIP),
    )
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), WRONG)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_right_answers_pass():
    assert check.finetuning.eta_step(eta_step())
    assert check.finetuning.accumulation(lambda m, f, b: gather(m, f, b, len(b)))
    assert check.finetuning.colour_loss(lambda x, c: off(x, c).pow(2).flatten(1).mean(1))
    assert check.finetuning.guided(guide())
    assert check.finetuning.clip_loss(lambda s, t, k: (1 - fit(s, t)).reshape(k, -1).mean(0))
