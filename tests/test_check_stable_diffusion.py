"""The checks of unit3/01: each usual mistake is refused with the sentence that names it."""

import pytest
import torch

from course_utils import check, latent


def padded(words, start, end, fill=None, longest=77):
    kept = [start, *words[: longest - 2], end]
    return kept + [end if fill is None else fill] * (longest - len(kept))


TOKENS = {
    "the end was cut off": lambda w, s, e: ([s, *w, e] + [e] * 77)[:77],
    "for a prompt of 76 tokens got 78": lambda w, s, e: [s, *w, *[e] * max(1, 76 - len(w))],
    "expected the end, 901": lambda w, s, e: padded(w, s, e, fill=0),
    "for a prompt of 4 tokens got 6 tokens": lambda w, s, e: [s, *w, e],
    "the first token is 10": lambda w, s, e: [*w[:76], *[e] * (77 - len(w[:76]))],
    "not all there": lambda w, s, e: padded(w[:74], s, e),
    "flat list": lambda w, s, e: [padded(w, s, e)],
    "in their order": lambda w, s, e: padded(w[-75:], s, e),
}
GUIDED = {
    "halves have changed places": lambda o, s: o.chunk(2)[1] + s * (o.chunk(2)[0] - o.chunk(2)[1]),
    "paper's w": lambda o, s: o.chunk(2)[1] + s * (o.chunk(2)[1] - o.chunk(2)[0]),
    "add up to 1": lambda o, s: o.chunk(2)[0] + s * o.chunk(2)[1],
    "the difference is missing": lambda o, s: s * o.chunk(2)[1],
    "only the difference": lambda o, s: s * (o.chunk(2)[1] - o.chunk(2)[0]),
    "taken apart in pairs": lambda o, s: o[::2] + s * (o[1::2] - o[::2]),
    "as many outputs as came in": lambda o, s: o * s,
    "got shape (6, 2, 2, 5)": lambda o, s: o.chunk(2, dim=1)[0] + s * o.chunk(2, dim=1)[1],
}
REMAINING = {
    "the first timesteps are taken": lambda ts, s: ts[: int(len(ts) * s)],
    "as many are left out": lambda ts, s: ts[int(len(ts) * s) :],
    "with 10 steps and strength 0 all are taken": lambda ts, s: ts[-int(len(ts) * s) :],
    "rounded down": lambda ts, s: ts[len(ts) - -int(-len(ts) * s // 1) :],
    "got 1 timesteps": lambda ts, s: ts[len(ts) - int(len(ts) * s)],
}


def keep(new=1.0, old=1.0, noisy=True, turned=False, swapped=False):
    def answer(z, source, eps, t, mask, scheduler):
        first, second = (eps, source) if turned else (source, eps)
        known = scheduler.add_noise(first, second, t) if noisy else source
        z, known = (known, z) if swapped else (z, known)
        return (mask if new else 1) * z + ((1 - mask) if old else 1) * known

    return answer


KEEP = {
    "changed places: where the mask is 1": keep(swapped=True),
    "the source is clean": keep(noisy=False),
    "clean latents first": keep(turned=True),
    "mask is missing at the new part": keep(new=0),
    "multiply it by 1 - mask": keep(old=0),
    "source is missing outside": lambda z, source, eps, t, mask, scheduler: mask * z,
    "the source alone": lambda z, source, eps, t, mask, scheduler: scheduler.add_noise(source, eps, t),
    "nothing was changed": lambda z, source, eps, t, mask, scheduler: z,
    "largest difference": lambda z, source, eps, t, mask, scheduler: (
        mask * z + (1 - mask) * scheduler.add_noise(source, torch.randn_like(eps), t)
    ),
}
ALL = [
    pytest.param(getattr(check.stable_diffusion, name), answer, words, id=f"{name}-{words}")
    for name, answers in (
        ("tokens", TOKENS),
        ("guided", GUIDED),
        ("remaining", REMAINING),
        ("keep_known", KEEP),
    )
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), ALL)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_other_right_answers_pass():
    """A tensor of tokens, the package's start, a blend by torch.where."""
    assert check.stable_diffusion.tokens(lambda w, s, e: torch.tensor(padded(w, s, e)))
    assert check.stable_diffusion.remaining(lambda ts, s: ts[latent.start_step(len(ts), s) :].tolist())
    assert check.stable_diffusion.keep_known(
        lambda z, source, eps, t, mask, scheduler: torch.where(
            mask > 0.5, z, scheduler.add_noise(source, eps, t)
        )
    )
