"""Checks of unit2/01_finetuning_and_guidance."""

from __future__ import annotations

import torch
from torch import nn

from course_utils.check.verdict import Verdict, attempt, compare, misshapen, wrong
from course_utils.messages import tr


def _numbers(seed, *shape):
    """Normal numbers of `shape`, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eta_step(function) -> Verdict:
    """Exercise 1: DDIM's step with its noise, Song et al. 2021, eq. 12 and 16."""
    a, a_next = torch.tensor(0.27, dtype=torch.float64), torch.tensor(0.71, dtype=torch.float64)
    (xt, x0_hat, noise), eta = _numbers(41, 3, 2, 3, 4, 5), 0.6
    got, failed = attempt(function, *(x.clone() for x in (xt, x0_hat, a, a_next)), eta, noise.clone())
    if failed is not None:
        return failed

    def step(std, keep=None, spread=None):
        eps = (xt - a.sqrt() * x0_hat) / (1 - a).sqrt()
        keep = (1 - a_next - std**2) if keep is None else keep
        return a_next.sqrt() * x0_hat + keep.sqrt() * eps + (std if spread is None else spread) * noise

    std = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
    causes = {
        tr("the noise came on top, so the whole is too noisy: eps_hat gives way, 1 - a_next - sigma²"): (
            step(std, keep=1 - a_next)
        ),
        tr("no new noise: this is the step with eta = 0"): step(0 * std),
        tr("this is the step with eta = 1: eta multiplies sigma"): step(std / eta),
        tr("the new noise is multiplied by sigma², its variance: sigma is the factor"): (
            step(std, spread=std**2)
        ),
        tr("eta was squared: it multiplies sigma, not sigma²"): step(std * eta),
        tr("sigma is the root of the product"): step(eta * (1 - a_next) / (1 - a) * (1 - a / a_next)),
        tr("eps_hat gives way to the new noise, but there is none"): step(std, spread=0),
        tr("eps_hat must give way to sigma², not to sigma"): step(std, keep=(1 - a_next - std).clamp(min=0)),
    }
    praise = tr("what eps_hat gives up, new noise takes over: the whole is as noisy as a_next says.")
    return compare(got, step(std), praise, causes, 1e-5)


def accumulation(function) -> Verdict:
    """Exercise 2: the gradients of several batches, as those of one large batch."""
    batches, seen = list(_numbers(42, 3, 4, 5)), []
    model = nn.Linear(5, 2).double()
    with torch.no_grad():
        model.weight.copy_(_numbers(43, 2, 5))
        model.bias.copy_(_numbers(44, 2))
    before = [p.detach().clone() for p in model.parameters()]

    def loss(network, x):
        seen.append(len(x))
        return (network(x) - 1).square().mean()

    _, failed = attempt(function, model, loss, [x.clone() for x in batches])
    if failed is not None:
        return failed
    if any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)):
        return wrong(
            tr("the weights have changed: leave the step to the optimiser, only gather the gradients.")
        )
    if any(p.grad is None for p in model.parameters()):
        return wrong(tr("no gradients have come: call .backward() on the loss of each batch."))
    if max(seen, default=0) > 4:
        return wrong(
            tr("all pictures went through at once: right, but as much memory as one large batch needs.")
        )
    return _gathered(model, batches)


def _gathered(model, batches):
    """Compare the gradients that lie in `model` with the right ones."""
    one_by_one, losses = [], []
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    for x in batches:
        value = (model(x) - 1).square().mean()
        gradients = torch.autograd.grad(value, list(model.parameters()))
        one_by_one.append(torch.cat([g.flatten() for g in gradients]))
        losses.append(value.detach())
    total = torch.stack(one_by_one)  # (batches, weights)
    weighted = (torch.stack(losses)[:, None] * total).sum(0)
    causes = {
        tr(
            "they are 3 times as large as those of one large batch: divide each loss by the number of batches"
        ): total.sum(0),
        tr("only the last batch is in them: do not clear the gradients in between"): total[-1],
        tr("only the last batch is in them, divided by the number of batches"): total[-1] / 3,
        tr("divide by the number of batches, not by that of pictures: the loss is a mean already"): (
            total.sum(0) / 4
        ),
        tr("divide by the number of batches, 3, not by that of all pictures"): total.sum(0) / 12,
        tr("loss.backward(loss) multiplies the gradients by the loss: call .backward() with nothing"): (
            weighted
        ),
        tr("loss.backward(loss) multiplies the gradients by the loss: call .backward() alone"): weighted / 9,
    }
    return compare(got, total.mean(0), tr("three small batches, the gradients of a large one."), causes, 1e-8)


def colour_loss(function) -> Verdict:
    """Exercise 3: how far each picture is from a colour."""
    x, colour = _numbers(45, 4, 3, 5, 3), torch.tensor([0.9, -0.4, 0.2], dtype=torch.float64)
    got, failed = attempt(function, x.clone(), colour.clone())  # as wide as there are channels: see below
    if failed is not None:
        return failed
    off = x - colour.reshape(1, 3, 1, 1)
    causes = {
        tr(
            "the colour ran along the width: reshape it to (1, 3, 1, 1), so that it runs along the channels"
        ): (x - colour).square().mean((1, 2, 3)),
        tr("this is the mean absolute distance: square it"): off.abs().mean((1, 2, 3)),
        tr("this is the sum: take the mean, so that it does not grow with the picture"): (
            off.square().sum((1, 2, 3))
        ),
        tr("this is the distance of the mean colour: a picture half black, half white would pass for grey"): (
            off.mean((2, 3)).square().mean(1)
        ),
        tr("this is the root: leave the mean of the squares as it is"): off.square().mean((1, 2, 3)).sqrt(),
    }
    verdict = compare(got, off.square().mean((1, 2, 3)), tr("one number a picture."), causes, 1e-6)
    if verdict == misshapen((), (len(x),)):
        hint = tr("(Each picture is guided for itself: no mean over the batch.)")
        return wrong(f"{verdict.message} {hint}")
    return verdict


def guided(function) -> Verdict:
    """Exercise 4: x0_hat guided by the gradient of a loss with respect to xt."""
    alpha_bar = torch.tensor([0.97, 0.9, 0.78, 0.62, 0.45, 0.3, 0.16, 0.06], dtype=torch.float64)
    (xt, goal), t, scale = _numbers(46, 2, 3, 2, 4, 4), torch.tensor([6, 1, 4]), 5.0
    slope = (0.4 + 0.05 * t).reshape(3, 1, 1, 1)

    def denoise(x, at_t):
        return (0.4 + 0.05 * at_t).reshape(-1, 1, 1, 1) * x.flip(-1)

    def loss(x):
        return (x - goal).square().mean((1, 2, 3))

    got, failed = attempt(function, denoise, loss, xt.clone(), t.clone(), alpha_bar.clone(), scale)
    if failed is not None:
        return failed
    x0_hat = denoise(xt, t)
    direct = 2 * (x0_hat - goal) / 32  # d loss / d x0_hat, of each picture
    through = slope * direct.flip(-1)  # d loss / d xt
    a, a_in_order = (alpha_bar[i].reshape(3, 1, 1, 1) for i in (t, torch.arange(3)))
    factor = (1 - a) / a.sqrt()
    causes = {
        tr("it runs away from what is wanted: the gradient is subtracted"): x0_hat + scale * factor * through,
        tr("nothing has changed: this is x0_hat without guidance"): x0_hat,
        tr("this is the gradient with respect to x0_hat: it has to run back through the network, to xt"): (
            x0_hat - scale * factor * direct
        ),
        tr("the factor (1 - alpha_bar) / sqrt(alpha_bar) is missing"): x0_hat - scale * through,
        tr("the factor is (1 - alpha_bar) / sqrt(alpha_bar): the root is missing"): (
            x0_hat - scale * (1 - a) / a * through
        ),
        tr("the factor lacks its sqrt(alpha_bar) below the line"): x0_hat - scale * (1 - a) * through,
        tr("sqrt(1 - alpha_bar) is the factor for eps_hat; x0_hat has (1 - alpha_bar) / sqrt(alpha_bar)"): (
            x0_hat - scale * (1 - a).sqrt() * through
        ),
        tr("alpha_bar is that of the place in the batch: take it at the timestep, alpha_bar[t]"): (
            x0_hat - scale * (1 - a_in_order) / a_in_order.sqrt() * through
        ),
        tr("the losses were averaged over the batch, so guidance fades as the batch grows: sum them"): (
            x0_hat - scale * factor * through / 3
        ),
        tr("loss.backward(loss) multiplies each gradient by its loss: sum the losses first"): (
            x0_hat - scale * factor * through * loss(x0_hat).reshape(3, 1, 1, 1)
        ),
        tr("xt was moved: it is x0_hat that is to move"): xt - scale * factor * through,
        tr("only the push came back: subtract it from x0_hat"): scale * factor * through,
    }
    praise = tr("the network says what it sees, and the gradient turns it towards what is wanted.")
    return compare(got, x0_hat - scale * factor * through, praise, causes, 1e-6)


def clip_loss(function) -> Verdict:
    """Exercise 5: how badly the cut-outs of each picture fit the text."""
    seen, text, count = _numbers(47, 8, 6) * 2, _numbers(48, 1, 6) * 3, 4
    got, failed = attempt(function, seen.clone(), text.clone(), count)
    if failed is not None:
        return failed
    plain = seen @ text[0]
    match = torch.cosine_similarity(seen, text)  # (8,)
    causes = {
        tr("the cut-outs of different pictures are mixed: cut-out k of picture i has the index k * B + i"): (
            1 - match.reshape(-1, count).mean(1)
        ),
        tr("this grows as picture and text fit better: a loss must fall"): match.reshape(count, -1).mean(0),
        tr("the features are not of length 1: take the cosine, not the product"): (
            1 - plain.reshape(count, -1).mean(0)
        ),
        tr("this is the sum over the cut-outs: take the mean"): (1 - match).reshape(count, -1).sum(0),
        tr("only the best cut-out counts: take the mean of all"): 1 - match.reshape(count, -1).amax(0),
        tr("the 1 is missing: 1 - cosine is 0 at best"): -match.reshape(count, -1).mean(0),
    }
    wanted = 1 - match.reshape(count, -1).mean(0)
    verdict = compare(got, wanted, tr("a picture fits if its cut-outs do, on average."), causes, 1e-6)
    if verdict == misshapen((len(seen),), wanted.shape):
        hint = tr("(One number a picture: the mean over its 4 cut-outs.)")
        return wrong(f"{verdict.message} {hint}")
    return verdict
