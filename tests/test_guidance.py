"""Guidance: against closed forms, and what its widgets and checks promise."""

import pytest
import torch

from course_utils import check, diffusion, guidance
from course_utils.explore import classes, warp

ALPHA_BAR = diffusion.cosine_alpha_bar().double()


def gaussian(mean, variance):
    """The ideal denoiser of a normal distribution: E[x0 | xt], in closed form."""

    def denoise(xt, t):
        a = diffusion.at(ALPHA_BAR, t, xt)
        return mean + a.sqrt() * variance / (a * variance + 1 - a) * (xt - a.sqrt() * mean)

    return denoise


def points(count):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.3


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scale_0_is_the_unconditional_and_1_the_conditional_denoiser(scale):
    conditional, unconditional = gaussian(2.0, 0.3), gaussian(0.0, 1.0)
    xt, t = points(20), torch.full((20,), 400)
    guided = guidance.classifier_free(conditional, unconditional, scale)(xt, t)
    assert (guided - (conditional if scale else unconditional)(xt, t)).abs().max() < 1e-12


def test_guidance_draws_out_the_score():
    """The score of q(y | x)^s q(x) is what guidance follows, so of s log q(x | y) + (1 - s) log q(x)."""
    scale, t = 3.0, torch.full((20,), 500)
    xt, a = points(20), ALPHA_BAR[500]
    guided = guidance.classifier_free(gaussian(2.0, 0.3), gaussian(0.0, 1.0), scale)(xt, t)
    x = xt.clone().requires_grad_()
    log_q = [-((x - a.sqrt() * m) ** 2) / (2 * (a * v + 1 - a)) for m, v in ((2.0, 0.3), (0.0, 1.0))]
    (score,) = torch.autograd.grad((scale * log_q[0] + (1 - scale) * log_q[1]).sum(), x)
    assert (guided - (xt + (1 - a) * score) / a.sqrt()).abs().max() < 1e-10  # Tweedie's formula


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_it_makes_no_difference_which_prediction_is_drawn_out(prediction):
    xt, t, scale = points(20), torch.full((20,), 300), 4.0
    one, two = (gaussian(m, v)(xt, t) for m, v in ((2.0, 0.3), (0.0, 1.0)))
    a = diffusion.at(ALPHA_BAR, t, xt)

    def output(x0_hat):
        eps = diffusion.to_eps(x0_hat, xt, t, ALPHA_BAR)
        return {"x0": x0_hat, "eps": eps, "v": a.sqrt() * eps - (1 - a).sqrt() * x0_hat}[prediction]

    drawn_out = output(two) + scale * (output(one) - output(two))
    again = diffusion.to_x0(drawn_out, xt, t, ALPHA_BAR, prediction)
    assert (again - (two + scale * (one - two))).abs().max() < 1e-9


# The guidance warp


def test_more_guidance_leaves_the_moon_less_varied_and_does_not_leave_it():
    clouds = {scale: warp.cloud("upper", scale, 0) for scale in (0, 1, 3, 8)}
    assert 0.35 < clouds[0].asked < 0.65
    assert all(clouds[scale].asked > 0.99 for scale in (1, 3, 8))
    assert clouds[1].spread == pytest.approx(1, abs=0.15)
    assert clouds[1].spread > clouds[3].spread > clouds[8].spread
    assert max(clouds[scale].off for scale in (1, 3, 8)) < 0.05


@pytest.mark.parametrize("moon", list(warp.MOONS))
@pytest.mark.parametrize("scale", [0, 12])
def test_the_warp_tells_its_numbers(moon, scale):
    drawn, result = warp.draw_guidance_warp(scale, 300, moon, 1), warp.cloud(moon, scale, 1)
    assert f"{result.asked:.0%}" in drawn.alt and f"the {moon} one" in drawn.alt
    assert len(drawn.png()) > 5000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 4}, "scale=4, expected one of 0, 0.5, 1"),
        ({"moon": "full"}, "moon='full', expected one of 'upper', 'lower'"),
        ({"t": 1000}, "t=1000, expected 0 to 999"),
    ],
)
def test_the_warp_names_what_it_does_not_know(settings, message):
    with pytest.raises(ValueError, match=message):
        warp.draw_guidance_warp(**settings)


# The class explorer


class Brightness(torch.nn.Module):
    """A judge that reads 1 in bright pictures and 0 in dark ones."""

    questions = {"digit": 2}

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return {"digit": torch.stack([-bright, bright], 1) * 20}


def by_scale(label, scale, seed):
    """Pictures as bright as the class asks, more so the higher the scale."""
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.1
    return x + scale * (2 * label - 1) * 0.5


def test_the_class_explorer_tells_what_the_judge_reads():
    drawn = classes.draw_class_explorer(by_scale, Brightness(), ["dark", "bright"], label=1, scale=1, seed=0)
    assert "'bright' at guidance scale 1" in drawn.alt and "reads 100% of them as asked" in drawn.alt
    sheet = classes.class_explorer_sheet(by_scale, Brightness(), ["dark", "bright"], label=0)
    assert sheet.alt.count("guidance scale") == 4 + 1
    with pytest.raises(ValueError, match="label=5, expected one of 0, 1"):
        classes.draw_class_explorer(by_scale, Brightness(), ["dark", "bright"], label=5)


# The checks of notebook unit2/02


def planes(xt, label, embedding):
    return embedding(label)[:, :, None, None].expand(-1, -1, *xt.shape[2:])


CHANNELS = {
    "planes come first": lambda x, y, e: torch.cat([planes(x, y, e), x], 1),
    "lost their order": lambda x, y, e: torch.cat([x, planes(x, y.sort().values, e)], 1),
    "got shape": lambda x, y, e: planes(x, y, e),
}


def dropped(share_of, everyone=False, fill=10, seeded=True):
    def drop(label, share, generator):
        shape = (1,) if everyone else label.shape
        chance = torch.rand(shape, generator=generator if seeded else None)
        return torch.where(chance < share_of(share), torch.tensor(fill), label)

    return drop


def in_place(label, share, generator):
    label[torch.rand(label.shape, generator=generator) < share] = 10
    return label


DROP = {
    "share one fate": dropped(lambda s: s, everyone=True),
    "the wrong way round": dropped(lambda s: 1 - s),
    "expected about 30%": dropped(lambda s: s / 2),
    "became another digit": dropped(lambda s: s, fill=3),
    "another result": dropped(lambda s: s, seeded=False),
    "another seed": lambda y, s, g: torch.where(torch.arange(len(y)) < s * len(y), 10, y),
    "the same labels": lambda y, s, g: dropped(lambda s: s)(y, s, torch.Generator().manual_seed(0)),
    "in place": in_place,
    "expected torch.int64": lambda y, s, g: dropped(lambda s: s)(y, s, g).float(),
    "one label for each": lambda y, s, g: y[:5],
}
GUIDED = {
    "changed places": lambda c, u, s: c + s * (u - c),
    "where 0 is off": lambda c, u, s: c + s * (c - u),
    "more than 1": lambda c, u, s: u + s * c,
    "difference is missing": lambda c, u, s: s * c,
    "only the difference": lambda c, u, s: s * (c - u),
}


def once(first, second, join=lambda a, b: torch.cat([a, b])):
    """Both answers in one call; first and second: what becomes of the labels in each half."""
    return lambda m, x, t, y: m(join(x, x), join(t, t), join(first(y), second(y))).chunk(2)


def same(label):
    return label


def none(label):
    return torch.full_like(label, 10)


def side_by_side(a, b):
    return torch.stack([a, b], 1).flatten(0, 1)


ONCE = {
    "changed places": once(none, same),
    "side by side": once(same, none, side_by_side),
    "both halves have the class": once(same, same),
    "neither half has the class": once(none, none),
    "batches of [3, 3], expected one of 6 once": lambda m, x, t, y: (m(x, t, y), m(x, t, none(y))),
    "cut what comes in two": lambda m, x, t, y: m(x.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y, none(y)])),
    "expected two answers": lambda m, x, t, y: (m(x, t, y),),
    "your function raised": lambda m, x, t, y: m(torch.cat([x, x]), t, torch.cat([y, none(y)])).chunk(2),
}
ANSWERS = {"class_channels": CHANNELS, "drop_labels": DROP, "guided": GUIDED, "both_answers": ONCE}
WRONG = [
    pytest.param(getattr(check.conditioning, name), answer, words, id=f"{name}-{words}")
    for name, answers in ANSWERS.items()
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), WRONG)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_right_answers_pass():
    assert check.conditioning.class_channels(lambda x, y, e: torch.cat([x, planes(x, y, e)], 1))
    assert check.conditioning.drop_labels(dropped(lambda s: s))
    assert check.conditioning.guided(lambda c, u, s: (1 - s) * u + s * c)
    assert check.conditioning.both_answers(once(same, none))
    assert check.conditioning.both_answers(lambda *given: list(once(same, none)(*given)))
