"""The widgets and checks of unit3/02: what they tell, and the usual mistakes."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from course_utils import check, diffusion, explore, show
from course_utils.explore import faces

pytestmark = pytest.mark.usefixtures("one_thread")
ALPHA_BAR = diffusion.cosine_alpha_bar()


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def as_if_clean(xt, t):
    """A denoiser that is not right, and not nothing."""
    return 0.6 * xt + 0.1


# Three faces

ANSWERED = draw(1, 3, 8, 8), as_if_clean, ALPHA_BAR, lambda z: z


@pytest.mark.parametrize("t", [3, 400, 930])
def test_the_three_faces_of_one_answer_are_those_of_the_scheduler(t):
    """Without an error all say the same; with one, Diffusers makes the same x0_hat of each wrong output."""
    xt, x0_hat, wrong, ts = (
        draw(2, 4, 5, 5),
        draw(2, 4, 5, 5, seed=1),
        draw(2, 4, 5, 5, seed=2),
        torch.tensor([t]),
    )
    told = faces.faces(xt, x0_hat, ts, ALPHA_BAR, torch.zeros_like(xt))
    assert all((one - x0_hat).abs().max() < 1e-9 for one in told.values())
    told = faces.faces(xt, x0_hat, ts, ALPHA_BAR, wrong)
    eps_hat = diffusion.to_eps(x0_hat.double(), xt.double(), ts, ALPHA_BAR)
    for ours, theirs in diffusion.PREDICTIONS.items():
        scheduler = DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type=theirs, clip_sample=False
        )
        scheduler.set_timesteps(10)
        output = diffusion.target(x0_hat.double(), eps_hat, ts, ALPHA_BAR, ours) + wrong
        x0 = scheduler.step(output, t, xt.double()).pred_original_sample
        assert ((told[ours] - x0).abs().max() / x0.abs().max()) < 1e-5


def test_errors_grow_by_the_closed_form():
    wrong, ts = draw(1, 4, 5, 5, seed=2), torch.tensor([700])
    told = faces.faces(draw(1, 4, 5, 5), draw(1, 4, 5, 5, seed=1), ts, ALPHA_BAR, wrong)
    a = ALPHA_BAR[700].double().item()
    times = {"eps": math.sqrt(1 - a) / math.sqrt(a), "x0": 1, "v": math.sqrt(1 - a)}
    zero = faces.faces(draw(1, 4, 5, 5), draw(1, 4, 5, 5, seed=1), ts, ALPHA_BAR, 0 * wrong)
    for face, factor in times.items():
        assert ((told[face] - zero[face]).abs() - factor * wrong.double().abs()).abs().max() < 1e-9
        assert faces.growth(ALPHA_BAR)[face][700].item() == pytest.approx(factor)


def test_v_is_below_both_by_29_percent_at_most():
    grown = faces.growth(ALPHA_BAR)
    ratio = grown["v"] / torch.minimum(grown["eps"], grown["x0"])
    assert ratio.max() <= 1 and ratio.min().item() == pytest.approx(math.sqrt(0.5), abs=1e-3)


def test_three_faces_tell_their_numbers():
    drawn = explore.draw_three_faces(*ANSWERED, t=100, error=0.4, seed=2)
    sigma = math.sqrt(1 / ALPHA_BAR[100].item() - 1)
    assert (
        f"is {0.4 * sigma:.3g} in eps, 0.4 in x0, {0.4 * math.sqrt(1 - ALPHA_BAR[100].item()):.3g} in v"
        in drawn.alt
    )
    assert "passes that of x0 at t = 495" in drawn.alt
    assert explore.three_faces_sheet(*ANSWERED).alt.count("same over t") == 3
    with pytest.raises(ValueError, match="got error=0.3, expected one of 0.02"):
        explore.draw_three_faces(*ANSWERED, error=0.3)


def test_the_label_of_the_timestep_lies_within_the_figure():
    for drawn in (explore.draw_three_faces(*ANSWERED), explore.three_faces_sheet(*ANSWERED)):
        drawn.draw_without_rendering()
        labels = [ax.xaxis.label for figure in (drawn, *drawn.subfigs) for ax in figure.axes]
        edges = [label.get_window_extent() for label in labels if label.get_text() == "t"]
        assert edges and min(edge.y0 for edge in edges) >= 0


# The mix of two prompts

PROMPTS = ["dark", "bright", "blinding"]


def between(first, second, share, seed):
    """Six pictures, as bright as the mix of the prompts' places in the list."""
    level = (1 - share) * PROMPTS.index(first) + share * PROMPTS.index(second) - 1
    return (level + 0.01 * draw(6, 3, 8, 8, seed=seed)).clamp(-1, 1)


def by_brightness(pictures, prompts):
    levels = torch.tensor([PROMPTS.index(one) - 1.0 for one in prompts])
    return (-20 * (pictures.mean((1, 2, 3))[:, None] - levels).abs()).softmax(1)


@pytest.mark.parametrize(("share", "taken"), [(0, "0%"), (0.3, "0%"), (0.7, "100%"), (1, "100%")])
def test_the_mix_tells_what_is_read(share, taken):
    drawn = explore.draw_prompt_mix(between, by_brightness, PROMPTS, 0, 2, share, 3)
    assert f"{taken} of them are read as the second prompt" in drawn.alt
    assert f"{share:g} of 'blinding', seed 3" in drawn.alt


def test_the_mix_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="second=3, expected one of 0, 1, 2"):
        explore.draw_prompt_mix(between, by_brightness, PROMPTS, 0, 3)
    with pytest.raises(ValueError, match="share=0.25, expected one of 0, 0.2"):
        explore.draw_prompt_mix(between, by_brightness, PROMPTS, share=0.25)
    assert explore.prompt_mix_sheet(between, by_brightness, PROMPTS).alt.count("samples of a mix") == 5


# Attention by word

WORDS = ["start", "red", "fish"]


def looks():
    """Two steps: the fish is below on the left in the first, above on the right in the second."""
    maps = torch.full((2, 3, 4, 4), 0.1)
    maps[0, 2, 3, 0], maps[1, 2, 0, 3] = 0.9, 0.7
    maps[:, 0] = 0.5
    return [
        explore.Look(t, draw(3, 16, 16, seed=t) / 3, one) for t, one in zip((900, 100), maps, strict=True)
    ]


@pytest.mark.parametrize(
    ("step", "most", "where"),
    [
        (0, "0.900", "88% from the top, 12% from the left"),
        (1, "0.700", "12% from the top, 88% from the left"),
    ],
)
def test_attention_by_word_tells_where_and_how_much(step, most, where):
    drawn = explore.draw_word_attention(looks(), WORDS, word=2, step=step)
    assert f"between 0.100 and {most} of a place's attention, most at {where}" in drawn.alt
    assert f"it has {(1.5 + float(most)) / 16:.1%}; 'start' has most, 50.0%" in drawn.alt


def test_attention_by_word_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"got 2 steps with maps of \[3\] words, expected .* with 2"):
        explore.draw_word_attention(looks(), ["red", "fish"])
    with pytest.raises(ValueError, match="got step=2, expected 0 to 1"):
        explore.draw_word_attention(looks(), WORDS, step=2)
    assert explore.word_attention_sheet(looks(), WORDS, 2).alt.count("the map of the word 'fish'") == 3


def test_a_map_over_a_picture_is_bright_where_it_is_high_and_leaves_both_as_they_were():
    x, maps = (
        draw(2, 3, 8, 8).clamp(-1, 1),
        torch.tensor([[[0.0, 0.1], [0.2, 0.4]], [[5.0, 5.0], [5.0, 5.0]]]),
    )
    before = x.clone(), maps.clone()
    over = show.heated(x, maps)
    assert over.shape == (2, 3, 8, 8) and over.min() >= -1 and over.max() <= 1
    assert over[0, :, 7, 7].mean() > over[0, :, 0, 0].mean()
    assert torch.equal(x, before[0]) and torch.equal(maps, before[1])
    grey = show.heated(torch.zeros(1, 3, 2, 2), maps[:1])[0]
    assert (grey[:, 1, 1] > grey[:, 0, 0])[:2].all(), "viridis ends in yellow: red and green rise"


# The checks


def mask(fill, diagonal):
    return lambda length: torch.full((length, length), fill).triu(diagonal)


MASK = {
    "wrong way round": lambda n: torch.full((n, n), -torch.inf).tril(-1),
    "does not see itself": mask(-torch.inf, 0),
    "sees the next one too": mask(-torch.inf, 2),
    "what is forbidden needs -inf": lambda n: torch.ones(n, n).tril(),
    "expected float ones": lambda n: torch.ones(n, n).bool().triu(1),
    "a row for each token": lambda n: torch.zeros(n),
    "or a score is changed": lambda n: mask(-torch.inf, 1)(n) + torch.arange(n),
}


def at(tokens, token):
    return (tokens == token)[:, :, None]


def in_place(e, y, token, vector):
    e[y == token] = vector
    return e


def first_only(e, y, token, vector):
    e = e.clone()
    for i, row in enumerate(y.tolist()):
        if token in row:
            e[i, row.index(token)] = vector
    return e


SWAP = {
    "nothing was swapped": lambda e, y, token, vector: e,
    "everything else was swapped": lambda e, y, token, vector: torch.where(at(y, token), e, vector),
    "only the first one in each prompt": first_only,
    "only the first prompt": lambda e, y, token, vector: torch.cat(
        [torch.where(at(y, token), vector, e)[:1], e[1:]]
    ),
    "was added": lambda e, y, token, vector: e + at(y, token) * vector,
    "changed in place": in_place,
    "got shape": lambda e, y, token, vector: e[0],
}
MIX = {
    "changed places": lambda a, b, s: s * a + (1 - s) * b,
    "whatever the share": lambda a, b, s: (a + b) / 2,
    "must add up to 1": lambda a, b, s: a + s * b,
    "weights are roots": lambda a, b, s: (1 - s) ** 0.5 * a + s**0.5 * b,
    "only the difference": lambda a, b, s: s * (b - a),
    "cut together": lambda a, b, s: torch.cat([a[:, : round(0.7 * 7)], b[:, round(0.7 * 7) :]], 1),
    "got shape": lambda a, b, s: torch.cat([a, b]),
}


def attend(q, k, factor=None, dim=-1):
    return (q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if factor is None else factor)).softmax(dim)


ATTENTION = {
    "not divided": lambda q, k: attend(q, k, 1),
    "divided by d": lambda q, k: attend(q, k, 1 / q.shape[-1]),
    "the number of tokens": lambda q, k: attend(q, k, k.shape[1] ** -0.5),
    "multiplied by the root": lambda q, k: attend(q, k, q.shape[-1] ** 0.5),
    "over the pixels": lambda q, k: attend(q, k, dim=1),
    "over the batch": lambda q, k: attend(q, k, dim=0),
    "the softmax is missing": lambda q, k: q @ k.transpose(1, 2) / q.shape[-1] ** 0.5,
    "got shape (2, 4, 6)": lambda q, k: attend(k, q),
}
OVERLAP = {
    "share of the first": lambda a, b: (a & b).sum() / a.sum(),
    "share of the second": lambda a, b: (a & b).sum() / b.sum(),
    "Dice": lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()),
    "not twice": lambda a, b: (a & b).sum() / (a.sum() + b.sum()),
    "most are background": lambda a, b: (a == b).float().mean(),
    "all pixels that is common": lambda a, b: (a & b).float().mean(),
    "upside down": lambda a, b: (a | b).sum() / (a & b).sum(),
    "got shape": lambda a, b: a & b,
}
WRONG = [
    pytest.param(getattr(check.deep_dive, name), answer, words, id=f"{name}-{words}")
    for name, answers in (
        ("causal_mask", MASK),
        ("swap", SWAP),
        ("mix", MIX),
        ("attention", ATTENTION),
        ("overlap", OVERLAP),
    )
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), WRONG)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_right_answers_pass():
    assert check.deep_dive.causal_mask(mask(-torch.inf, 1))
    assert check.deep_dive.causal_mask(mask(torch.finfo(torch.float32).min, 1))
    assert check.deep_dive.swap(lambda e, y, token, vector: torch.where(at(y, token), vector, e))
    assert check.deep_dive.mix(torch.lerp)
    assert check.deep_dive.attention(attend)
    assert check.deep_dive.overlap(lambda a, b: (a & b).sum().item() / (a | b).sum().item())
