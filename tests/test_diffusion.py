"""Schedules, forward process and samplers against Diffusers and against closed forms."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers import scheduling_ddpm as ddpm_module
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils import diffusion

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 1e-5  # absolute, in float32
SCHEDULES = {"linear": diffusion.linear_alpha_bar, "squaredcos_cap_v2": diffusion.cosine_alpha_bar}
ALL = [(schedule, prediction) for schedule in SCHEDULES for prediction in diffusion.PREDICTIONS]


class Network(torch.nn.Module):
    """A fixed random network, nonlinear in xt and in t, whose pictures lie in (-1, 1).

    For "eps" it gives the noise that belongs to such a picture: an arbitrary output, divided by
    sqrt(alpha_bar), would stand for pictures with values of 10,000 and more.
    """

    def __init__(self, alpha_bar, prediction):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = torch.randn(8, 3, 3, 3, generator=generator) / 4
        self.second = torch.randn(3, 8, 3, 3, generator=generator) / 4
        self.phase = torch.rand(8, generator=generator) * 6
        self.alpha_bar, self.prediction = alpha_bar, prediction

    def forward(self, xt, t):
        t = torch.as_tensor(t).long().reshape(-1, 1, 1, 1)
        hidden = torch.nn.functional.conv2d(xt, self.first.to(xt.dtype), padding=1)
        hidden = torch.tanh(hidden + torch.sin(t / 100 + self.phase.to(xt.dtype)[:, None, None]))
        output = torch.tanh(torch.nn.functional.conv2d(hidden, self.second.to(xt.dtype), padding=1))
        if self.prediction != "eps":
            return output
        a = self.alpha_bar.to(xt.dtype)[t]
        return (xt - a.sqrt() * output) / (1 - a).sqrt()


def setting(schedule, prediction):
    """alpha_bar, a network, pure noise, and the options that a Diffusers scheduler needs for the same."""
    alpha_bar = SCHEDULES[schedule]()
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    options = {"beta_schedule": schedule, "prediction_type": diffusion.PREDICTIONS[prediction]}
    return alpha_bar, Network(alpha_bar, prediction), noise, options


def trajectory(steps):
    """Every xt after the first, then the result: (steps, B, C, H, W)."""
    steps = list(steps)
    return torch.stack([xt for _, xt, _ in steps[1:]] + [steps[-1][2]])


def their_trajectory(scheduler, network, xt, scale=lambda t: 1.0, **options):
    """The same from a Diffusers scheduler; divided by `scale(t)` its pictures are variance preserving."""
    x, out = xt * scale(scheduler.timesteps[0]), []
    ts = scheduler.timesteps
    for t, t_next in zip(ts, [*ts[1:], None], strict=True):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **options).prev_sample
        out.append(x / (1.0 if t_next is None else scale(t_next)))
    return torch.stack(out)


def assert_close(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    difference = (ours.double() - theirs.double()).abs().max().item()
    assert difference <= tolerance, f"largest difference {difference:.3g}"


# Schedules and the forward process


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_is_that_of_diffusers(schedule):
    theirs = DDPMScheduler(beta_schedule=schedule)
    alpha_bar = SCHEDULES[schedule]()
    assert alpha_bar.dtype == torch.float32
    assert torch.equal(alpha_bar, theirs.alphas_cumprod)
    assert_close(diffusion.betas(alpha_bar), theirs.betas, 1e-6)


def test_alpha_bar_of_other_lengths_and_ends():
    theirs = DDPMScheduler(num_train_timesteps=50, beta_start=0.001, beta_end=0.1)
    assert torch.equal(diffusion.linear_alpha_bar(50, 0.001, 0.1), theirs.alphas_cumprod)
    theirs = DDPMScheduler(num_train_timesteps=37, beta_schedule="squaredcos_cap_v2")
    assert torch.equal(diffusion.cosine_alpha_bar(37), theirs.alphas_cumprod)


def test_cosine_alpha_bar_is_the_cosine_of_the_paper():
    alpha_bar = diffusion.cosine_alpha_bar(1000, max_beta=1.0).double()
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    paper = (torch.cos((u + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    assert_close(alpha_bar, paper)


def test_log_snr_is_half_at_equal_power_and_falls():
    alpha_bar = diffusion.linear_alpha_bar()
    assert diffusion.log_snr(torch.tensor([0.5])).item() == 0
    assert diffusion.log_snr(torch.tensor([0.8])).item() == pytest.approx(math.log(4), abs=1e-6)
    assert (diffusion.log_snr(alpha_bar).diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_process_and_velocity_are_those_of_diffusers(schedule):
    theirs, alpha_bar = DDPMScheduler(beta_schedule=schedule), SCHEDULES[schedule]()
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1000, 1, 4, 4, generator=generator)
    t = torch.arange(1000)
    assert_close(diffusion.add_noise(x0, eps, t, alpha_bar), theirs.add_noise(x0, eps, t), 1e-6)
    assert_close(diffusion.target(x0, eps, t, alpha_bar, "v"), theirs.get_velocity(x0, eps, t), 1e-6)
    assert torch.equal(diffusion.target(x0, eps, t, alpha_bar, "eps"), eps)
    assert torch.equal(diffusion.target(x0, eps, t, alpha_bar, "x0"), x0)


@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_to_x0_and_to_eps_undo_target(schedule, prediction):
    """In float64: at the noisiest step float32 loses x0, which is there multiplied by 5e-5."""
    alpha_bar = SCHEDULES[schedule]().double()
    x0, eps = torch.randn(2, 1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1000)
    xt = diffusion.add_noise(x0, eps, t, alpha_bar)
    output = diffusion.target(x0, eps, t, alpha_bar, prediction)
    assert_close(diffusion.to_x0(output, xt, t, alpha_bar, prediction), x0, 1e-10)
    assert_close(diffusion.to_eps(x0, xt, t, alpha_bar), eps, 1e-10)


def test_an_unknown_prediction_is_refused():
    x = torch.zeros(1, 1)
    for function in (diffusion.target, diffusion.to_x0):
        with pytest.raises(ValueError, match="got prediction='noise', expected one of eps, x0, v"):
            function(x, x, torch.zeros(1, dtype=torch.long), torch.ones(1) / 2, "noise")


def test_denoiser_clips_takes_diffusers_outputs_and_needs_no_gradients():
    alpha_bar = diffusion.linear_alpha_bar()
    layer = torch.nn.Linear(4, 4)  # called with t, it would fail: so the wrapper below stands for a network
    xt = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 9
    t = torch.zeros(3, dtype=torch.long)

    def wrapped(xt, t):
        return type("Output", (), {"sample": layer(xt)})()

    free = diffusion.denoiser(wrapped, alpha_bar, "x0", clip=False)(xt, t)
    assert torch.equal(free, layer(xt)) and not free.requires_grad
    assert free.abs().max() > 1
    assert torch.equal(diffusion.denoiser(wrapped, alpha_bar, "x0")(xt, t), free.clamp(-1, 1))


# Samplers against Diffusers


def test_timesteps_are_trailing_ones():
    theirs = DDPMScheduler(timestep_spacing="trailing")
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        # where steps do not divide 1,000, Diffusers now and then adds a timestep -1 (61 steps, for one)
        assert diffusion.spaced_timesteps(steps) == theirs.timesteps.tolist()[:steps], steps
    assert diffusion.spaced_timesteps(4, 8) == [7, 5, 3, 1]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"got {steps} steps, expected 1 to 1000"):
            diffusion.spaced_timesteps(steps)


def ddpm_of_diffusers(schedule, prediction, steps, double=False):
    """A trajectory of DDPMScheduler; with `double`, its table of alpha_bar and the pictures are float64."""
    alpha_bar, network, noise, options = setting(schedule, prediction)
    scheduler = DDPMScheduler(timestep_spacing="trailing", clip_sample=True, **options)
    scheduler.set_timesteps(steps)
    if double:
        scheduler.alphas_cumprod, noise = alpha_bar.double(), noise.double()
    return their_trajectory(scheduler, network, noise, generator=torch.Generator().manual_seed(3))


def our_ddpm(schedule, prediction, steps):
    alpha_bar, network, noise, _ = setting(schedule, prediction)
    denoise, ts = diffusion.denoiser(network, alpha_bar, prediction), diffusion.spaced_timesteps(steps)
    return trajectory(diffusion.ddpm(denoise, noise, alpha_bar, ts, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("steps", [50, 30])
@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_ddpm_is_that_of_diffusers(schedule, prediction, steps):
    assert_close(our_ddpm(schedule, prediction, steps), ddpm_of_diffusers(schedule, prediction, steps))


@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_ddpm_in_all_1000_steps_is_that_of_diffusers(schedule, prediction, monkeypatch):
    """Against the scheduler in float64. In float32 it loses digits in 1 - alpha_bar_t / alpha_bar_{t-1}.

    That makes 1e-4 over 1,000 steps (3e-4 at most here); our coefficients are of double precision.
    """
    draw = ddpm_module.randn_tensor
    wanted_32 = ddpm_of_diffusers(schedule, prediction, 1000)
    monkeypatch.setattr(
        ddpm_module, "randn_tensor", lambda *a, dtype, **k: draw(*a, dtype=torch.float32, **k).to(dtype)
    )
    ours = our_ddpm(schedule, prediction, 1000)
    assert_close(ours, ddpm_of_diffusers(schedule, prediction, 1000, double=True))
    assert_close(ours, wanted_32, 5e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_ddim_is_that_of_diffusers(schedule, prediction, eta):
    """With clipping, the noise is worked out again from the clipped picture, as Diffusers' option does."""
    alpha_bar, network, noise, options = setting(schedule, prediction)
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=True, **options)
    scheduler.set_timesteps(50)
    more = {"eta": eta, "use_clipped_model_output": True, "generator": torch.Generator().manual_seed(3)}
    wanted = their_trajectory(scheduler, network, noise, **more)
    denoise, ts = diffusion.denoiser(network, alpha_bar, prediction), diffusion.spaced_timesteps(50)
    ours = diffusion.ddim(denoise, noise, alpha_bar, ts, eta, torch.Generator().manual_seed(3))
    assert_close(trajectory(ours), wanted)


@pytest.mark.parametrize("steps", [50, 30])
@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_euler_is_that_of_diffusers(schedule, prediction, steps):
    """The cosine schedule without its first timestep, where sigma is 20,000 and Diffusers' float32 1e-4 off.

    `test_deterministic_samplers_in_float64` takes that step too.
    """
    alpha_bar, network, noise, options = setting(schedule, prediction)
    ts = diffusion.spaced_timesteps(steps)[1 if schedule == "squaredcos_cap_v2" else 0 :]
    scheduler = EulerDiscreteScheduler(**options)
    scheduler.set_timesteps(timesteps=ts)
    wanted = their_trajectory(scheduler, network, noise, lambda t: alpha_bar[int(t)] ** -0.5)
    denoise = diffusion.denoiser(network, alpha_bar, prediction, clip=False)
    assert_close(trajectory(diffusion.euler(denoise, noise, alpha_bar, ts)), wanted)


@pytest.mark.parametrize("steps", [50, 30, 10])
@pytest.mark.parametrize(("schedule", "prediction"), [s for s in ALL if s != ("squaredcos_cap_v2", "eps")])
def test_dpm_solver_is_that_of_diffusers(schedule, prediction, steps):
    """All but the cosine schedule with eps: its first x0_hat = (xt - ...) / 5e-5 leaves float32 no digits.

    `test_deterministic_samplers_in_float64` takes that one.
    """
    alpha_bar, network, noise, options = setting(schedule, prediction)
    scheduler = DPMSolverMultistepScheduler(
        timestep_spacing="trailing", algorithm_type="dpmsolver++", final_sigmas_type="zero", **options
    )
    assert scheduler.config.solver_order == 2
    scheduler.set_timesteps(steps)
    ts = diffusion.spaced_timesteps(steps)
    assert ts == scheduler.timesteps.tolist()
    denoise = diffusion.denoiser(network, alpha_bar, prediction, clip=False)
    ours = diffusion.dpm_solver(denoise, noise, alpha_bar, ts)
    assert_close(trajectory(ours), their_trajectory(scheduler, network, noise))


def reference(network, xt, alpha_bar, ts, order):
    """DPM-Solver++ of order 1 (which is DDIM) or 2 (Lu et al. 2022) in float64 and the paper's symbols."""
    alpha, sigma = alpha_bar.double().sqrt(), (1 - alpha_bar.double()).sqrt()
    lam = alpha.log() - sigma.log()
    xt, pictures, out = xt.double(), [], []
    for i, (s, t) in enumerate(zip(ts, ts[1:], strict=False)):
        pictures.append(picture(network, xt, s))
        h, correction = lam[t] - lam[s], 0.0
        if order == 2 and i > 0:
            correction = h / (lam[s] - lam[ts[i - 1]]) / 2 * (pictures[-1] - pictures[-2])
        xt = sigma[t] / sigma[s] * xt - alpha[t] * torch.expm1(-h) * (pictures[-1] + correction)
        out.append(xt)
    return torch.stack([*out, picture(network, xt, ts[-1])])


def picture(network, xt, t):
    """x0_hat of a network, by the textbook's definitions."""
    a, output = network.alpha_bar.double()[t], network(xt, t)
    return {
        "eps": lambda: (xt - (1 - a).sqrt() * output) / a.sqrt(),
        "x0": lambda: output,
        "v": lambda: a.sqrt() * xt - (1 - a).sqrt() * output,
    }[network.prediction]()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm_solver"])
@pytest.mark.parametrize(("schedule", "prediction"), ALL)
def test_deterministic_samplers_in_float64(schedule, prediction, sampler, dtype):
    """Against the paper's formulas in float64, where no rounding hides a difference; in float32 to 1e-5.

    (In float32 without the cosine schedule's eps: see `test_dpm_solver_is_that_of_diffusers`.)
    """
    if (schedule, prediction, dtype) == ("squaredcos_cap_v2", "eps", torch.float32):
        prediction = "x0"
    alpha_bar, network, noise, _ = setting(schedule, prediction)
    ts = diffusion.spaced_timesteps(48)
    denoise = diffusion.denoiser(network, alpha_bar, prediction, clip=False)
    ours = trajectory(getattr(diffusion, sampler)(denoise, noise.to(dtype), alpha_bar, ts))
    assert ours.dtype == dtype
    wanted = reference(network, noise, alpha_bar, ts, 2 if sampler == "dpm_solver" else 1)
    assert_close(ours, wanted, 1e-9 if dtype == torch.float64 else TOLERANCE)


# Samplers against closed forms


def gaussian(mean, std, alpha_bar):
    """The ideal denoiser of numbers drawn from N(mean, std^2)."""

    def denoise(xt, t):
        a = diffusion.at(alpha_bar, t, xt)
        gain = a.sqrt() * std**2 / (a * std**2 + 1 - a)
        return mean + gain * (xt - a.sqrt() * mean)

    return denoise


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("dpm_solver", 2)])
def test_probability_flow_of_a_gaussian(schedule, sampler, order):
    """The exact flow is linear; twice the steps divide the error by 2 (first order) or by 4 (second)."""
    fine_grained = {
        "linear": diffusion.linear_alpha_bar(4000, 2.5e-5, 0.005),
        "squaredcos_cap_v2": diffusion.cosine_alpha_bar(4000),
    }
    alpha_bar, mean, std = fine_grained[schedule].double(), 0.3, 0.5
    xt = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]

    def error(steps):
        ts = diffusion.spaced_timesteps(steps, 4000)[1:]  # the first is too noisy to say anything of x0
        a, a_end = alpha_bar[ts[0]], alpha_bar[ts[-1]]
        *_, (_, end, _) = getattr(diffusion, sampler)(gaussian(mean, std, alpha_bar), xt, alpha_bar, ts)
        scale = ((a_end * std**2 + 1 - a_end) / (a * std**2 + 1 - a)).sqrt()
        return (end - (a_end.sqrt() * mean + scale * (xt - a.sqrt() * mean))).abs().max().item()

    coarse, fine = error(100), error(200)
    assert fine < 0.03
    assert 2**order * 0.7 < coarse / fine < 2**order * 1.6


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", {}), ("ddim", {"eta": 1.0})])
def test_ancestral_samples_of_a_gaussian_have_its_mean_and_spread(sampler, eta):
    alpha_bar, mean, std = diffusion.linear_alpha_bar(), 0.3, 0.5
    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(40_000, 1, generator=generator)
    ts = diffusion.spaced_timesteps(1000)
    options = {"generator": generator, **eta}
    end = diffusion.last(
        getattr(diffusion, sampler)(gaussian(mean, std, alpha_bar), xt, alpha_bar, ts, **options)
    )
    assert end.mean().item() == pytest.approx(mean, abs=0.01)  # 4 standard errors
    assert end.std().item() == pytest.approx(std, abs=0.01)


def test_samplers_with_the_ideal_denoiser_find_members_of_the_set():
    """All of the ideal denoiser's pictures are copies: the end of every sampler is a member of the set."""
    data = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    alpha_bar = diffusion.cosine_alpha_bar()
    noise = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    denoise, ts = diffusion.ideal_denoiser(data, alpha_bar), diffusion.spaced_timesteps(40)
    for sampler in (diffusion.ddpm, diffusion.ddim, diffusion.euler, diffusion.dpm_solver):
        end = diffusion.last(sampler(denoise, noise, alpha_bar, ts))
        distance = torch.cdist(end.flatten(1), data.flatten(1))
        assert distance.min(1).values.max() < 1e-3
        assert len(distance.argmin(1).unique()) > 1


# How samplers behave


def test_euler_steps_are_ddim_steps():
    alpha_bar, network, noise, _ = setting("linear", "v")
    denoise, ts = diffusion.denoiser(network, alpha_bar, "v"), [990, 700, 420, 90, 3]
    ddim = diffusion.ddim(denoise, noise, alpha_bar, ts)
    assert_close(trajectory(diffusion.euler(denoise, noise, alpha_bar, ts)), trajectory(ddim))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "dpm_solver"])
def test_samplers_yield_each_step_and_leave_gradients_and_the_noise_alone(sampler):
    alpha_bar, network, noise, _ = setting("linear", "x0")
    denoise, ts = diffusion.denoiser(network, alpha_bar, "x0"), [900, 500, 100]
    before, seen = noise.clone(), []
    for t, xt, x0_hat in getattr(diffusion, sampler)(denoise, noise, alpha_bar, ts):
        assert torch.is_grad_enabled()
        assert torch.equal(x0_hat, denoise(xt, torch.full((2,), t)))
        seen.append(t)
    assert seen == ts and torch.equal(noise, before)
    with pytest.raises(ValueError, match="got a sampler without steps"):
        diffusion.last(getattr(diffusion, sampler)(denoise, noise, alpha_bar, []))


class OnlySinglePrecision(TorchDispatchMode):
    """Stands for an accelerator without float64, such as Apple's: fails where one would be made on "meta"."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type == "meta":
            assert made.dtype != torch.float64, function
        return made


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "dpm_solver"])
def test_samplers_need_no_float64_on_the_device(sampler):
    alpha_bar, noise = diffusion.linear_alpha_bar(), torch.zeros(1, 3, 4, 4, device="meta")
    with OnlySinglePrecision():
        steps = getattr(diffusion, sampler)(lambda xt, t: xt / 2, noise, alpha_bar, [900, 500, 100])
        end = diffusion.last(steps)
    assert end.device.type == "meta" and end.dtype == torch.float32
