"""The checks of notebook 01: each usual mistake is refused with the sentence that names it."""

import pytest
from torch.nn.functional import mse_loss

from course_utils import check

RANGE = {
    "[0, 1]": lambda x: x.float() / 255,
    "[0, 2]": lambda x: x.float() / 127.5,
    "half as wide": lambda x: x.float() / 255 - 0.5,
    "128": lambda x: x.float() / 128 - 1,
    "wraps round": lambda x: (x - 1) / 127.5,
    "torch.float64": lambda x: x.double() / 127.5 - 1,
    "got shape": lambda x: x.float().flatten() / 127.5 - 1,
}
NOISE = {
    "its variance": lambda x, b, e: (1 - b) ** 0.5 * x + b * e,
    "both factors": lambda x, b, e: (1 - b) * x + b * e,
    "1 - beta: take the root": lambda x, b, e: (1 - b) * x + b**0.5 * e,
    "must shrink": lambda x, b, e: x + b**0.5 * e,
    "changed places": lambda x, b, e: b**0.5 * x + (1 - b) ** 0.5 * e,
    "largest difference": lambda x, b, e: x,
}


def loss_with(shown, wanted="x0", told=1):
    def loss(model, scheduler, x0, eps, t):
        xt = scheduler.add_noise(x0, eps, t)
        named = {"x0": x0, "eps": eps, "xt": xt, "turned": scheduler.add_noise(eps, x0, t)}
        return mse_loss(model(named[shown], t * told).sample, named[wanted])

    return loss


LOSS = {
    "shown the clean picture": loss_with("x0"),
    "shown pure noise": loss_with("eps"),
    "told t = 0": loss_with("xt", told=0),
    "held against eps": loss_with("xt", "eps"),
    "ask the network": lambda model, scheduler, x0, eps, t: mse_loss(scheduler.add_noise(x0, eps, t), x0),
    "clean picture first": loss_with("turned"),
    "got shape": lambda model, scheduler, x0, eps, t: model(x0, t).sample,
}


def loop(model, scheduler, xt, calls=1, forward=False, jump=False):
    ts = scheduler.timesteps.flip(0) if forward else scheduler.timesteps
    for t in ts:
        output = model(xt, t).sample
        for _ in range(calls):
            step = scheduler.step(output, t, xt)
            xt = step.pred_original_sample if jump else step.prev_sample
    return xt


LOOP = {
    "never changes": lambda m, s, x: [m(x, t) for t in s.timesteps] and x,
    "called twice": lambda m, s, x: loop(m, s, x, calls=2),
    "went on from x0_hat": lambda m, s, x: loop(m, s, x, jump=True),
    "largest difference": lambda m, s, x: loop(m, s, x, forward=True),
    "asked 0 times": lambda m, s, x: x,
}
ALL = [
    pytest.param(getattr(check.introduction, name), answer, words, id=f"{name}-{words}")
    for name, answers in (
        ("pixel_range", RANGE),
        ("one_noise_step", NOISE),
        ("loss", LOSS),
        ("sampling_loop", LOOP),
    )
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), ALL)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message
