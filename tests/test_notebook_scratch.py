"""Notebook 02: what it writes out equals the package, and its checks name each usual mistake."""

import ast
import math
from pathlib import Path

import nbformat
import pytest
import torch

from course_utils import check, diffusion, unet

NOTEBOOK = Path(__file__).parents[1] / "unit1" / "02_diffusion_models_from_scratch.ipynb"
SIZE = 8


@pytest.fixture(scope="module")
def inline():
    """The functions that the notebook defines, without running what it computes."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    plain = [c for c in cells if c.id != "setup" and "exercise" not in c.metadata.get("tags", [])]
    space = {"device": "cpu", "SIZE": SIZE, "COUNT": 5, "T": 1000, "STEPS": 3, "RATE": 1e-3}
    exec(next(c.source for c in plain if c.id == "imports"), space)
    for cell in plain:
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                exec(ast.get_source_segment(cell.source, node), space)
    space["alpha_bar"] = diffusion.cosine_alpha_bar()
    # decorators lie outside of a function's source segment
    space["sample"], space["naive_sampler"] = (torch.no_grad()(space[k]) for k in ("sample", "naive_sampler"))
    return space


def draw(count, *shape, dtype=torch.float32):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def assert_close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() < tolerance


def test_schedule_noise_and_targets_are_those_of_the_package(inline):
    assert_close(inline["cosine_schedule"](), diffusion.cosine_alpha_bar(), 1e-6)
    x0, eps = draw(2, 1000, 1, 3, 3)
    t, alpha_bar = torch.arange(1000), diffusion.cosine_alpha_bar()
    assert_close(inline["add_noise"](x0, eps, t), diffusion.add_noise(x0, eps, t, alpha_bar), 1e-6)
    for prediction in diffusion.PREDICTIONS:
        mine = inline["target"](x0, eps, t, prediction)
        assert_close(mine, diffusion.target(x0, eps, t, alpha_bar, prediction), 1e-6)
    xt, output = draw(2, 5, 1, 3, 3)
    for level in (0, 500, 999):
        t = torch.full((5,), level)
        for prediction in diffusion.PREDICTIONS:
            mine = inline["to_x0"](output, xt, alpha_bar[level], prediction)
            theirs = diffusion.to_x0(output, xt, t, alpha_bar, prediction)
            assert_close(mine / theirs.abs().max(), theirs / theirs.abs().max())


def network(xt, t):
    return torch.tanh(0.7 * xt + t.reshape(-1, 1, 1, 1).float() / 1000)


@pytest.mark.parametrize(("name", "steps"), [("ddim", 20), ("ddpm", 20), ("euler", 20), ("ddim", 100)])
def test_samplers_are_those_of_the_package(inline, monkeypatch, name, steps):
    # Euler's x is xt / sqrt(alpha_bar): at the end of the cosine schedule too large for float32
    alpha_bar = diffusion.linear_alpha_bar() if name == "euler" else diffusion.cosine_alpha_bar()
    monkeypatch.setitem(inline, "alpha_bar", alpha_bar)
    step = inline[f"{name}_step"]
    mine, trail = inline["sample"](network, lambda *a: inline["to_x0"](*a, "v"), step, steps)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn((5, 1, SIZE, SIZE), generator=generator)
    more = {"generator": generator} if name == "ddpm" else {}
    denoise = diffusion.denoiser(network, alpha_bar, "v")
    theirs = list(
        getattr(diffusion, name)(denoise, start, alpha_bar, diffusion.spaced_timesteps(steps), **more)
    )
    assert [t for t, *_ in trail] == [t for t, *_ in theirs]
    assert_close(mine, theirs[-1][2], 1e-4)


def test_all_timesteps_are_trained(inline, monkeypatch):
    asked = []
    randint = torch.randint
    monkeypatch.setattr(torch, "randint", lambda *a, **k: asked.append(a[:2]) or randint(*a, **k))
    loss = inline["diffusion_loss"](lambda x0, eps, t: eps)
    loss(lambda xt, t: xt, draw(1, 4, 1, 3, 3)[0], torch.Generator().manual_seed(0))
    assert asked == [(0, 1000)]


def test_the_ideal_denoiser_is_that_of_the_package(inline):
    alpha_bar = diffusion.cosine_alpha_bar()
    members, xt = draw(1, 30, 1, 3, 4, dtype=torch.float64)[0], draw(1, 6, 1, 3, 4, dtype=torch.float64)[0]
    for level in (5, 300, 999):
        mine = inline["ideal_denoiser"](xt, members, alpha_bar[level].double())
        theirs = diffusion.ideal_denoiser(members, alpha_bar)(xt, torch.full((6,), level))
        assert_close(mine, theirs, 1e-8)


def test_five_naive_steps_walk_the_line(inline):
    x, clean = draw(2, 3, 1, 8, 8)
    end, trail = inline["naive_sampler"](lambda x, t: clean, x, 5)
    assert_close(end, clean)
    for i, seen, _ in trail:
        assert_close(seen, inline["corrupt"](clean, x, torch.tensor([1 - i / 5])))


def test_what_is_no_digit_is_the_same_in_the_package(inline):
    from course_utils import data, scores

    digits = data.digits()[:60]
    mine = inline["no_digits"](digits, 9, torch.Generator().manual_seed(2))
    assert torch.equal(mine, scores.no_digits(digits, 9, torch.Generator().manual_seed(2)))


def test_the_judge_answers_no_digit(inline):
    """What it is taught to refuse has the right shape and range."""
    from course_utils import data

    images = data.digits()[torch.arange(200)]
    fakes = inline["no_digits"](images, 20, torch.Generator().manual_seed(0))
    assert fakes.shape == (80, 1, SIZE, SIZE)
    assert fakes.min() >= -1 and fakes.max() <= 1


# The checks


def like(a):
    return a.reshape(-1, 1, 1, 1)


def off(t):
    return t - 1


ADD_NOISE = {
    "its variance, 1 - alpha_bar": lambda x, e, t, b: like(b[t]).sqrt() * x + (1 - like(b[t])) * e,
    "both factors are variances": lambda x, e, t, b: like(b[t]) * x + (1 - like(b[t])) * e,
    "multiplied by alpha_bar: take the root": lambda x, e, t, b: like(b[t]) * x + (1 - like(b[t])).sqrt() * e,
    "changed places": lambda x, e, t, b: (1 - like(b[t])).sqrt() * x + like(b[t]).sqrt() * e,
    "1 - sqrt(alpha_bar) is not": lambda x, e, t, b: like(b[t]).sqrt() * x + (1 - like(b[t]).sqrt()) * e,
    "every column": lambda x, e, t, b: b[t].sqrt() * x + (1 - b[t]).sqrt() * e,
    "one timestep too early": lambda x, e, t, b: (
        like(b[off(t)]).sqrt() * x + (1 - like(b[off(t)])).sqrt() * e
    ),
    "got shape": lambda x, e, t, b: x[0],
    "reshape it to (B, 1, 1, 1).)": lambda x, e, t, b: b * x,
    "largest difference": lambda x, e, t, b: x,
}


def ddim(xt, x0, a, b, c=None):
    return b.sqrt() * x0 + (1 - b).sqrt() * (xt - a.sqrt() * x0) / (1 - a).sqrt()


DDIM = {
    "this is x0_hat itself": lambda xt, x0, a, b: x0,
    "this is eps_hat": lambda xt, x0, a, b: (xt - a.sqrt() * x0) / (1 - a).sqrt(),
    "went back to the level": lambda xt, x0, a, b: ddim(xt, x0, a, a),
    "a and a_next have changed places": lambda xt, x0, a, b: ddim(xt, x0, b, a),
    "noise is left out": lambda xt, x0, a, b: b.sqrt() * x0,
    "a_next without its root": lambda xt, x0, a, b: b * x0 + (1 - b) * (xt - a.sqrt() * x0) / (1 - a).sqrt(),
    "computed without the roots": lambda xt, x0, a, b: (
        b.sqrt() * x0 + (1 - b).sqrt() * (xt - a * x0) / (1 - a)
    ),
    "divided by sqrt(1 - a)": lambda xt, x0, a, b: b.sqrt() * x0 + (1 - b).sqrt() * (xt - a.sqrt() * x0),
    "largest difference": lambda xt, x0, a, b: xt + x0,
}
VELOCITY = {
    "this is eps": lambda v, x, t, b: (1 - like(b[t])).sqrt() * x + like(b[t]).sqrt() * v,
    "the sign of v": lambda v, x, t, b: like(b[t]).sqrt() * x + (1 - like(b[t])).sqrt() * v,
    "both factors are variances": lambda v, x, t, b: like(b[t]) * x - (1 - like(b[t])) * v,
    "if the output were eps": lambda v, x, t, b: (x - (1 - like(b[t])).sqrt() * v) / like(b[t]).sqrt(),
    "this is xt": lambda v, x, t, b: x,
    "every column": lambda v, x, t, b: b[t].sqrt() * x - (1 - b[t]).sqrt() * v,
    "reshape it to (B, 1, 1, 1).)": lambda v, x, t, b: b * x,
}


def weights(**changed):
    named = {"x0": torch.ones_like, "eps": lambda a: a / (1 - a), "v": lambda a: 1 / (1 - a)} | changed
    return lambda a, prediction: named[prediction](a)


WEIGHT = {
    "for 'eps' this is the weight of another": weights(eps=torch.ones_like),
    "for 'v' this is the weight of another": weights(v=lambda a: a / (1 - a)),
    "for 'eps' this is the root": weights(eps=lambda a: (a / (1 - a)).sqrt()),
    "for 'v' this is the weight upside down": weights(v=lambda a: 1 - a),
    "for 'eps' this is the weight upside down": weights(eps=lambda a: (1 - a) / a),
    "for 'eps' this is alpha_bar": weights(eps=lambda a: a),
    "for 'eps' this is the log": weights(eps=lambda a: (a / (1 - a)).log()),
    "for 'x0': the largest difference": weights(x0=lambda a: 2 * a),
    "for 'v': got shape": weights(v=lambda a: a[:3]),
    "for 'v': your function raised KeyError": lambda a, p: {"x0": 1, "eps": a / (1 - a)}[p],
}


def clock(exponent, first="sin", second="cos", turn=1.0):
    def embed(t, width):
        half = width // 2
        angles = turn * t[:, None] * 10_000.0 ** -exponent(torch.arange(half), half)
        return torch.cat([getattr(angles, first)(), getattr(angles, second)()], 1)

    return embed


CLOCK = {
    "cosines come first": clock(lambda i, h: i / h, "cos", "sin"),
    "alternate": lambda t, w: torch.stack(clock(lambda i, h: i / h)(t, w).chunk(2, 1), 2).flatten(1),
    "goes up to 1": clock(lambda i, h: i / (h - 1)),
    "i / width": clock(lambda i, h: i / (2 * h)),
    "already counts pairs": clock(lambda i, h: 2 * i / h),
    "needs a minus": clock(lambda i, h: -i / h),
    "2 pi": clock(lambda i, h: i / h, turn=2 * math.pi),
    "only sines": clock(lambda i, h: i / h, "sin", "sin"),
    "got shape (5, 6)": lambda t, w: clock(lambda i, h: i / h)(t, w)[:, :6],
    "t[:, None]": lambda t, w: t * torch.arange(w // 2),
}


def ideal(scale=torch.sqrt, power=2, factor=lambda a: -1 / (2 * (1 - a)), dim=1):
    def denoise(xt, members, a):
        distance = torch.cdist(xt.flatten(1), scale(a) * members.flatten(1)) ** power
        return (torch.softmax(distance * factor(a), dim) @ members.flatten(1)).reshape(xt.shape)

    return denoise


IDEAL = {
    "the nearest member": lambda x, m, a: m[torch.cdist(x.flatten(1), a.sqrt() * m.flatten(1)).argmin(1)],
    "the plain mean": lambda x, m, a: m.mean(0).expand_as(x),
    "the sign is wrong": ideal(factor=lambda a: 1 / (2 * (1 - a))),
    "the 2 is missing": ideal(factor=lambda a: -1 / (1 - a)),
    "its root does not belong": ideal(factor=lambda a: -1 / (2 * (1 - a).sqrt())),
    "the variance is missing": ideal(factor=lambda a: -1.0),
    "the picture has shrunk": ideal(scale=torch.ones_like),
    "the root is missing": ideal(scale=lambda a: a),
    "run over the members": ideal(dim=0),
    "distance squared": ideal(power=1),
    "got shape": lambda x, m, a: ideal()(x, m, a).flatten(1),
}
CHECKS = {
    "add_noise": ADD_NOISE,
    "ddim_step": DDIM,
    "x0_from_v": VELOCITY,
    "loss_weight": WEIGHT,
    "timestep_embedding": CLOCK,
    "posterior_mean": IDEAL,
}
MISTAKES = [
    pytest.param(name, answer, words, id=f"{name}-{words}")
    for name in CHECKS
    for words, answer in CHECKS[name].items()
]


@pytest.mark.parametrize(("name", "answer", "words"), MISTAKES)
def test_a_usual_mistake_is_named(name, answer, words):
    verdict = getattr(check.scratch, name)(answer)
    assert not verdict
    assert words in verdict.message


def test_other_right_answers_pass():
    """The package's functions, an embedding in float32, a weight of bare 1, and SNR + 1 written as such."""
    assert check.scratch.add_noise(diffusion.add_noise)
    assert check.scratch.x0_from_v(lambda v, xt, t, a: diffusion.to_x0(v, xt, t, a, "v"))
    assert check.scratch.timestep_embedding(unet.timestep_embedding)
    assert check.scratch.loss_weight(weights(x0=lambda a: 1, v=lambda a: a / (1 - a) + 1))
    assert check.scratch.posterior_mean(
        lambda xt, members, a: diffusion.ideal_denoiser(members, a.reshape(1))(
            xt, torch.zeros(len(xt)).long()
        )
    )
