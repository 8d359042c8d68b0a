import asyncio
import base64
import html
import io
import math
import threading

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import data, diffusion, explore, show
from course_utils.explore import frame, guess, race, score
from tests import test_deep_dive as deep_dive

COSINE = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images():
    return data.butterflies(12, size_px=16)


@pytest.fixture(scope="module")
def trajectory(images):
    x0, alpha_bar = data.to_model(images.images), diffusion.cosine_alpha_bar()
    xt = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return list(
        diffusion.ddim(diffusion.ideal_denoiser(x0, alpha_bar), xt, alpha_bar, diffusion.spaced_timesteps(9))
    )


@pytest.fixture(scope="module")
def fanned(images):
    x0, alpha_bar = data.to_model(images.images), diffusion.cosine_alpha_bar()
    starts = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return explore.fan(diffusion.ideal_denoiser(x0, alpha_bar), starts, alpha_bar, ends=3, steps=5)


def decoded(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def assert_is_picture(picture):
    """It decodes, its margin is opaque white, and something is drawn on it."""
    assert isinstance(picture, show.Picture)
    assert len(picture.alt) > 80 and "\n" not in picture.alt
    assert_is_drawn(picture.png())


def assert_is_drawn(png):
    pixels = decoded(png)
    assert (pixels[0] == 255).all() and (pixels != 255).mean() > 0.02


# The closed forms in course_utils.diffusion


def test_posterior_of_two_points_is_a_logistic_curve():
    alpha_bar = torch.tensor([0.9, 0.5, 0.05], dtype=torch.float64)
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    xt = torch.tensor([[0.3], [-0.2], [1.7]], dtype=torch.float64)
    for t, a in enumerate(alpha_bar.tolist()):
        right = 1 / (1 + np.exp(-2 * math.sqrt(a) * xt.numpy()[:, 0] / (1 - a)))
        ts = torch.full((3,), t)
        assert np.allclose(diffusion.posterior(xt, ts, points, alpha_bar)[:, 1], right, atol=1e-12)
        answer = diffusion.ideal_denoiser(points, alpha_bar)(xt, ts)
        assert np.allclose(answer[:, 0], 2 * right - 1, atol=1e-12)


def test_each_picture_of_a_batch_has_its_own_timestep(images):
    x0, alpha_bar = data.to_model(images.images), diffusion.linear_alpha_bar()
    t = torch.tensor([10, 800])
    xt = diffusion.add_noise(x0[:2], torch.randn(x0[:2].shape), t, alpha_bar)
    together = diffusion.posterior(xt, t, x0, alpha_bar)
    one_by_one = [diffusion.posterior(xt[i : i + 1], t[i : i + 1], x0, alpha_bar) for i in (0, 1)]
    assert together.shape == (2, 12) and together.dtype == torch.float32
    assert torch.allclose(together, torch.cat(one_by_one))
    assert torch.allclose(together.sum(1), torch.ones(2))


def test_ideal_denoiser_copies_at_little_noise_and_averages_at_much(images):
    x0, alpha_bar = data.to_model(images.images), torch.tensor([0.9999, 1e-9])
    denoise = diffusion.ideal_denoiser(x0, alpha_bar)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    little, much = torch.zeros(12).long(), torch.ones(12).long()
    assert torch.allclose(denoise(diffusion.add_noise(x0, eps, little, alpha_bar), little), x0, atol=1e-6)
    answers = denoise(diffusion.add_noise(x0, eps, much, alpha_bar), much)
    assert torch.allclose(answers, x0.mean(0).expand_as(x0), atol=0.01)


def test_float32_agrees_with_float64_where_distances_are_large():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(20, 3000, generator=generator)
    points[1] = points[0] + 1e-4 * torch.randn(3000, generator=generator)  # two members that are nearly one
    alpha_bar, t = diffusion.linear_alpha_bar(), torch.tensor([0])
    xt = alpha_bar[0].sqrt() * points[:1]
    close = diffusion.posterior(xt, t, points, alpha_bar)
    a = alpha_bar[0].double()
    logits = -(xt.double() - a.sqrt() * points.double()).square().sum(1) / (2 * (1 - a))
    assert torch.allclose(close[0].double(), logits.softmax(0), atol=2e-3)
    assert 0.1 < close[0, 1] < 0.5


def test_posterior_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"xt of shape \(1, 3\) and data of shape \(4, 2\)"):
        diffusion.posterior(torch.zeros(1, 3), torch.tensor([0]), torch.zeros(4, 2), torch.tensor([0.5]))


# The drawings


@pytest.mark.parametrize("t", [0, 500, 999])
@pytest.mark.parametrize(
    ("schedule", "name", "beta_end"),
    [
        ("linear", "linear", 0.02),
        ("cosine", "squaredcos_cap_v2", 0.02),
        ("linear, too little", "linear", 0.002),
    ],
)
def test_noise_dial_tells_the_weights_of_the_diffusers_schedule(images, t, schedule, name, beta_end):
    drawn = explore.draw_noise_dial(images, t=t, schedule=schedule, seed=9, picture=11)
    alpha_bar = (
        diffusers.DDPMScheduler(beta_schedule=name, beta_end=beta_end).alphas_cumprod.double()[t].item()
    )
    assert f"sqrt(alpha_bar) is {math.sqrt(alpha_bar):.3f}" in drawn.alt
    assert f"sqrt(1 - alpha_bar) is {math.sqrt(1 - alpha_bar):.3f}" in drawn.alt
    assert f"{100 * alpha_bar:.1f}% of the power" in drawn.alt


def test_noise_dial_says_how_much_is_left_half_way(images):
    alt = explore.draw_noise_dial(images.images).alt
    assert "signal and noise are equal at t = 259; at t = 500, half way, the signal has 7.8%" in alt


@pytest.mark.parametrize("step", [0, 4, 8])
@pytest.mark.parametrize("pictures", [1, 4])
def test_film_strip_tells_the_distances_to_the_result(trajectory, step, pictures):
    drawn = explore.draw_film_strip(trajectory, step, pictures)
    t, xt, x0_hat = trajectory[step]
    end = trajectory[-1][2].numpy()
    far, near = (np.sqrt(np.mean((x.numpy() - end) ** 2)) for x in (xt, x0_hat))
    assert f"Step {step} of 0 to 8, t = {t}" in drawn.alt
    assert f"distance of {far:.3f} and x0_hat of {near:.3f}" in drawn.alt


def _posterior_by_hand(images, t, round):
    """The hidden picture and the posterior, in NumPy, from the same noise."""
    x0 = data.to_model(images.images).double().numpy().reshape(len(images), -1)
    generator = torch.Generator().manual_seed(round)
    hidden = int(torch.randint(len(images), (1,), generator=generator))
    eps = torch.randn(images.images[:1].shape, generator=generator).double().numpy().ravel()
    a = COSINE.alphas_cumprod.double()[t].item()
    xt = math.sqrt(a) * x0[hidden] + math.sqrt(1 - a) * eps
    logits = -((xt - math.sqrt(a) * x0) ** 2).sum(1) / (2 * (1 - a))
    weight = np.exp(logits - logits.max())
    return hidden, weight / weight.sum()


@pytest.mark.parametrize("t", [0, 700, 999])
@pytest.mark.parametrize("round", [0, 19])
def test_be_the_denoiser_tells_the_posterior_and_the_verdict(images, t, round):
    hidden, weight = _posterior_by_hand(images, t, round)
    right = explore.draw_be_the_denoiser(images, t, round, guess=hidden + 1)
    wrong = explore.draw_be_the_denoiser(images, t, round, guess=(hidden + 1) % 12 + 1)
    for drawn in (right, wrong):
        assert f"{100 * weight.max():.1f}% picture {weight.argmax() + 1}" in drawn.alt
    assert ": right." in right.alt
    assert f"wrong, it was picture {hidden + 1}." in wrong.alt


def test_be_the_denoiser_keeps_the_answer_back_before_the_guess(images):
    drawn = explore.draw_be_the_denoiser(images)
    assert "No guess yet" in drawn.alt and "it was" not in drawn.alt and "%" not in drawn.alt


@pytest.mark.parametrize("size_px", [8, 32])
def test_telling_t_is_where_the_ideal_denoiser_wavers(size_px):
    images = data.butterflies(12, size_px=size_px)
    t = guess.telling_t(images)
    sure = np.mean([_posterior_by_hand(images, t, round)[1].max() for round in range(20)])
    assert 0.2 < sure < 0.8


@pytest.mark.parametrize("dataset", list(score.SETS))
@pytest.mark.parametrize("t", [0, 400, 999])
def test_score_map_draws_and_tells_the_noise(dataset, t):
    drawn = explore.draw_score_map(t, dataset, seed=9)
    a = COSINE.alphas_cumprod.double()[t].item()
    assert f"t = {t}, noise weight sqrt(1 - alpha_bar) = {math.sqrt(1 - a):.3f}" in drawn.alt


def test_score_is_the_gradient_of_the_log_density():
    points, t = score.spiral(40), 300
    a = score.ALPHA_BAR[t].double()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    squares = (x[:, None] - a.sqrt() * points).square().sum(-1)
    torch.logsumexp(-squares / (2 * (1 - a)), 1).sum().backward()
    assert torch.allclose(score.score(x.detach(), t, points), x.grad, atol=1e-9)


def test_score_map_points_to_the_nearest_point_at_little_noise_only():
    share = [
        float(explore.draw_score_map(t, "five points").alt.split("; ")[1].split("%")[0]) for t in (0, 400)
    ]
    assert share[0] == 0 and share[1] > 20


@pytest.mark.parametrize("steps", [2, 8, 64])
@pytest.mark.parametrize("samplers", race.TEAMS, ids="-".join)
def test_race_draws_and_tells_its_errors(steps, samplers):
    drawn = explore.draw_step_budget_race(steps, samplers, seed=0)
    result = race.race(0)
    assert f"ddim distance {result.error['ddim', steps]:.3f}" in drawn.alt
    assert ("ddpm energy" in drawn.alt) == ("ddpm" in samplers)
    assert ("ddim and euler coincide" in drawn.alt) == ("euler" in samplers)


def test_race_measures_what_it_says():
    result = race.race(0)
    ddim, euler, dpm = (result.ends[name, 8] for name in ("ddim", "euler", "dpm_solver"))
    assert torch.allclose(ddim, euler, atol=1e-9)
    assert (ddim - dpm).abs().max() > 0.01
    x, y = ddim.numpy(), result.data.numpy()
    between, within_x, within_y = (
        np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1)).mean() for p, q in ((x, y), (x, x), (y, y))
    )
    assert result.energy["ddim", 8] == pytest.approx(2 * between - within_x - within_y, abs=1e-9)


def test_race_teaches_what_it_should():
    result = race.race(0)
    for name in ("ddim", "dpm_solver"):
        errors = [result.error[name, n] for n in race.STEPS]
        assert errors == sorted(errors, reverse=True)
    assert all(result.error["dpm_solver", n] < result.error["ddim", n] for n in race.STEPS if n >= 4)
    assert result.energy["ddpm", 32] < result.energy["ddpm", 4] / 5


def test_chance_is_the_mean_energy_distance_of_random_members():
    result, generator = race.race(0), torch.Generator().manual_seed(0)
    draws = [
        result.data[torch.randint(len(result.data), (race.STARTS,), generator=generator)] for _ in range(200)
    ]
    mean = np.mean([race.energy_distance(draw, result.data) for draw in draws])
    assert result.chance == pytest.approx(mean, rel=0.15)


def test_the_same_settings_draw_the_same_picture(images, trajectory):
    for draw in (
        lambda: explore.draw_noise_dial(images, seed=3),
        lambda: explore.draw_film_strip(trajectory, 3),
        lambda: explore.draw_be_the_denoiser(images, guess=2),
        lambda: explore.draw_score_map(seed=2),
        lambda: explore.draw_step_budget_race(12),
    ):
        torch.manual_seed(torch.randint(1000, ()).item())
        first, second = draw(), draw()
        assert first.png() == second.png() and first.alt == second.alt


def test_drawing_leaves_images_and_trajectory_alone(images, trajectory):
    before = images.images.clone(), [x.clone() for step in trajectory for x in step[1:]]
    explore.draw_noise_dial(images)
    explore.draw_be_the_denoiser(images, guess=1)
    explore.draw_film_strip(trajectory)
    assert torch.equal(before[0], images.images)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before[1], (x for step in trajectory for x in step[1:]), strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"t": 1000}, "got t=1000, expected 0 to 999"),
        ({"schedule": "sine"}, "got schedule='sine', expected one of 'linear', 'cosine'"),
        ({"picture": -1}, "got picture=-1, expected 0 to 11"),
    ],
)
def test_settings_out_of_range_are_named(images, settings, message):
    with pytest.raises(ValueError, match=message):
        explore.draw_noise_dial(images, **settings)


def test_wrong_pictures_are_named():
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\), expected pictures"):
        explore.draw_noise_dial(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="got no trajectory"):
        explore.draw_film_strip([])
    broken = torch.full((1, 1, 8, 8), float("nan"))
    with pytest.raises(ValueError, match="got a result with nan"):
        explore.draw_film_strip([(9, torch.zeros(1, 1, 8, 8), broken)])
    with pytest.raises(ValueError, match="got 1 picture, expected at least 2"):
        explore.draw_be_the_denoiser(torch.zeros(1, 1, 8, 8))


# Contact sheets


def test_sheets_show_several_settings(images, trajectory):
    sheets = {
        "t = 250": explore.noise_dial_sheet(images),
        "t = 999": explore.film_strip_sheet(trajectory, frames=8),
        "one hidden": explore.be_the_denoiser_sheet(images),
        "t = 950": explore.score_map_sheet("spiral"),
        "at 32 steps": explore.step_budget_race_sheet(),
    }
    for sheet in sheets.values():
        assert_is_picture(sheet)
    assert "(4) x0 beside xt at t = 999" in sheets["t = 250"].alt
    assert "8 of 9 steps" in sheets["t = 999"].alt
    assert sheets["one hidden"].alt.count("The posterior says") == 3
    assert "(3) Score map of spiral (200 points) at t = 950" in sheets["t = 950"].alt
    assert "(3) At 32 steps" in sheets["at 32 steps"].alt


# Controls


def parts(widget):
    """The widget's controls, its picture's bytes, and its line of text."""
    box, picture, text = widget.children
    return box.children, picture.value, html.unescape(text.value)


class Brightness(torch.nn.Module):
    """A judge of two classes: dark and bright."""

    questions = {"class": 2}

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return {"class": torch.stack([-bright, bright], 1)}


def as_bright_as_asked(label, scale, seed):
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.3
    return x + scale * (label - 0.5) / 20


@pytest.fixture(
    params=[
        "noise_dial",
        "film_strip",
        "be_the_denoiser",
        "score_map",
        "step_budget_race",
        "guidance_warp",
        "class_explorer",
        "randomness_knob",
        "three_faces",
        "prompt_mix",
        "word_attention",
    ]
)
def widget(request, images, trajectory, fanned):
    given = {
        "noise_dial": [images],
        "film_strip": [trajectory],
        "be_the_denoiser": [images],
        "randomness_knob": [fanned],
        "class_explorer": [as_bright_as_asked, Brightness(), ["dark", "bright", "blinding"]],
        "three_faces": deep_dive.ANSWERED,
        "prompt_mix": [deep_dive.between, deep_dive.by_brightness, deep_dive.PROMPTS],
        "word_attention": [deep_dive.looks(), deep_dive.WORDS],
    }
    return getattr(explore, request.param)(*given.get(request.param, []))


def ends_and_middle(control):
    if hasattr(control, "min"):
        return [control.min, (control.min + control.max) // 2, control.max]
    options = [
        one[1] if isinstance(one, tuple) else one for one in control.options
    ]  # (label, value), or value
    return [options[0], options[len(options) // 2], options[-1]]


def test_both_ends_and_the_middle_of_every_control_draw_another_picture(widget):
    for control in parts(widget)[0]:
        assert control.description and control.style.description_width == "initial"
        for value in ends_and_middle(control):
            _, picture, text = parts(widget)
            moved = value != control.value
            control.value = value
            _, new_picture, new_text = parts(widget)
            assert "Cannot draw" not in new_text and len(new_text) > 80
            assert_is_drawn(new_picture)
            assert (new_picture != picture) == moved


def test_the_text_follows_the_first_control(widget):
    control, before = parts(widget)[0][0], parts(widget)[2]
    control.value = ends_and_middle(control)[2]
    assert parts(widget)[2] != before


def test_a_new_round_takes_the_guess_back(images):
    widget = explore.be_the_denoiser(images)
    _, round, answer = parts(widget)[0]
    answer.value = 4
    assert "You guessed picture 4" in parts(widget)[2]
    round.value = 1
    assert answer.value == 0 and "No guess yet" in parts(widget)[2]


def a_picture(n):
    if n > 2:
        raise ValueError(f"got n={n}, expected at most 2 <b>.\nsecond line")
    figure = show.Picture(2, 1, f"a line up to {n} & more")
    figure.subplots().plot([0, n])
    return figure


def test_panel_shows_picture_and_alt_text_and_follows_its_control():
    control = frame.slider("n", 0, 5, 1)
    widget = explore.panel(a_picture, {"n": control})
    _, first, text = parts(widget)
    assert first == a_picture(1).png() and "a line up to 1 & more" in text
    control.value = 2
    _, second, text = parts(widget)
    assert second == a_picture(2).png() != first and "a line up to 2 & more" in text


def test_panel_keeps_the_last_picture_and_shows_the_message(capsys):
    control = frame.slider("n", 0, 5, 2)
    widget = explore.panel(a_picture, {"n": control})
    before = parts(widget)[1]
    control.value = 4
    _, after, text = parts(widget)
    assert after == before
    assert "Cannot draw this: got n=4, expected at most 2 <b>." in text
    assert "second line" not in text and "Traceback" not in text and "<b>" not in widget.children[2].value
    assert capsys.readouterr() == ("", "")
    control.value = 1
    assert "a line up to 1" in parts(widget)[2]


def test_panel_shows_an_error_of_the_first_drawing_and_one_without_a_message():
    def broken(n):
        raise KeyboardError

    class KeyboardError(RuntimeError):
        pass

    _, picture, text = parts(explore.panel(broken, {"n": frame.slider("n", 0, 5, 4)}))
    assert picture == b"" and "Cannot draw this: KeyboardError" in text


def test_panel_draws_once_for_each_setting_and_leaves_the_collector_on():
    import gc

    drawn = []
    control = frame.slider("n", 0, 2, 1)
    explore.panel(lambda n: drawn.append(n) or a_picture(n), {"n": control})
    control.value = 2
    control.value = 2
    assert drawn == [1, 2] and gc.isenabled()
    gc.disable()
    control.value = 0
    try:
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_panel_draws_in_the_thread_that_made_it_whichever_moves_its_controls():
    drawn = []

    async def in_a_kernel():
        control = frame.slider("n", 0, 2, 0)
        explore.panel(lambda n: drawn.append((n, threading.get_ident())) or a_picture(n), {"n": control})
        control.value = 1
        await asyncio.to_thread(control.set_trait, "value", 2)
        await asyncio.sleep(0)

    asyncio.run(in_a_kernel())
    assert drawn == [(n, threading.get_ident()) for n in range(3)]


def test_only_widgets_that_ipywidgets_7_has_too(widget):
    allowed = {"VBox", "Box", "Image", "HTML", "IntSlider", "SelectionSlider", "Dropdown"}

    def kinds(widget):
        return {type(widget).__name__}.union(*(kinds(child) for child in getattr(widget, "children", ())))

    assert kinds(widget) <= allowed


def test_pictures_show_themselves_with_their_alt_text(images):
    drawn = explore.draw_noise_dial(images)
    bundle, metadata = drawn._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == bundle["text/plain"] == drawn.alt
    decoded(base64.b64decode(base64.b64encode(bundle["image/png"])))
