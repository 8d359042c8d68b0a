"""Checks of unit1/00_quicktour."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from course_utils.check.verdict import Verdict, attempt, compare, empty, right, wrong
from course_utils.messages import tr

PROMPT, SEEDS = "a fish", [11, 4, 11, 7]


class _Pipeline:
    """A stand-in for a pipeline: its pictures are the noise that they would begin with.

    asked: for each call, its prompts.
    """

    def __init__(self):
        self.asked = []

    def __call__(self, prompt, num_images_per_prompt=1, generator=None, **settings):
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self.asked.append(prompts)
        count = len(prompts) * num_images_per_prompt
        if isinstance(generator, (list, tuple)) and len(generator) != count:
            raise ValueError(
                tr(
                    "got {given} generators for {count} pictures, expected one for each",
                    given=len(generator),
                    count=count,
                )
            )
        each = generator if isinstance(generator, (list, tuple)) else [generator] * count
        return SimpleNamespace(images=[torch.randn((3, 4, 4), generator=one) for one in each])


def _noise(seeds):
    return torch.stack([torch.randn((3, 4, 4), generator=torch.Generator().manual_seed(n)) for n in seeds])


def _in_turn(seed):
    """The noise of four pictures that draw from one generator."""
    one = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn((3, 4, 4), generator=one) for _ in SEEDS])


def seeds(function) -> Verdict:
    """Exercise 1: a picture for each seed, that depends on its seed alone, from one call."""
    pipeline = _Pipeline()
    got, failed = attempt(function, pipeline, PROMPT, list(SEEDS))
    if failed is not None:
        return failed
    if isinstance(got, SimpleNamespace):
        return wrong(tr("got what the pipeline returned: the pictures are its .images."))
    if isinstance(got, (list, tuple)) and all(isinstance(one, torch.Tensor) for one in got):
        if len(got) != len(SEEDS):
            return wrong(
                tr(
                    "got {got} pictures for {seeds} seeds, expected one for each.",
                    got=len(got),
                    seeds=len(SEEDS),
                )
            )
        got = torch.stack(list(got)) if len({one.shape for one in got}) == 1 else got
    shared = torch.randn((len(SEEDS), 3, 4, 4), generator=torch.Generator().manual_seed(SEEDS[0]))
    causes = {
        tr("all pictures draw from one generator, so the second depends on the first: give each its own"): (
            _in_turn(SEEDS[0])
        ),
        tr("all entries of the list are one generator, and its last seed counts: make one for each seed"): (
            _in_turn(SEEDS[-1])
        ),
        tr("all pictures share the noise of one draw: give each a generator of its own"): shared,
        tr("all pictures come from the first seed: use each seed once"): _noise([SEEDS[0]] * len(SEEDS)),
        tr("the seeds are 0, 1, 2...: take the given ones, not their places in the list"): (
            _noise(range(len(SEEDS)))
        ),
        tr("the order of the seeds is lost: picture i belongs to seed i"): _noise(sorted(SEEDS)),
    }
    verdict = compare(got, _noise(SEEDS), tr("each picture can be drawn again, alone or in company."), causes)
    if verdict:
        return _asked_once(pipeline.asked, verdict)
    repeated, _ = attempt(function, _Pipeline(), PROMPT, list(SEEDS))
    if not _same(got, repeated):
        return wrong(
            tr("the same seeds give other pictures: pass the generators to the pipeline (generator=).")
        )
    return verdict


def _asked_once(asked, verdict):
    """The verdict on the pictures, unless they took more than one call, or another prompt than PROMPT."""
    if len(asked) != 1:
        return wrong(
            tr(
                "got {calls} calls of the pipeline, expected one: generator= takes the whole list of "
                "generators.",
                calls=len(asked),
            )
        )
    others = [prompt for prompt in asked[0] if prompt != PROMPT]
    if others:
        return wrong(
            tr(
                "got pictures of {other!r}, expected those of the given prompt, {prompt!r}.",
                other=others[0],
                prompt=PROMPT,
            )
        )
    return verdict


def _same(a, b):
    try:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    except (TypeError, ValueError):
        return True  # no pictures at all: what is wrong has been said


def box_mask(function) -> Verdict:
    """Exercise 2: a mask for inpainting, white in a box and black elsewhere."""
    width, height, box = 12, 8, (2, 1, 9, 4)
    left, top, right, bottom = box
    got, failed = attempt(function, width, height, box)
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    if not isinstance(got, Image.Image):
        kind = type(got).__name__
        return wrong(tr("got {kind}, expected a PIL image: Image.fromarray(...) makes one.", kind=kind))
    if got.mode != "L":
        return wrong(
            tr(
                "got an image of mode {mode}, expected L, one byte a pixel: make the array of type np.uint8.",
                mode=got.mode,
            )
        )
    if got.size != (width, height):
        return wrong(
            tr(
                "got {got_width} x {got_height} pixels, expected {width} x {height}: an array's shape is "
                "(height, width), an image's size (width, height).",
                got_width=got.width,
                got_height=got.height,
                width=width,
                height=height,
            )
        )
    white, turned, closed = np.zeros((3, height, width))
    white[top:bottom, left:right] = 255
    turned[left:right, top:bottom] = 255
    closed[top : bottom + 1, left : right + 1] = 255
    causes = {
        tr("black and white have changed places: white is what is drawn anew"): 255 - white,
        tr("the box is nearly black: white is 255, the largest byte"): white / 255,
        tr("rows and columns have changed places: it is mask[top:bottom, left:right]"): turned,
        tr("the box is one pixel too wide and too high: right and bottom are not included"): closed,
        tr("all is white: only the box is to be drawn anew"): white * 0 + 255,
        tr("all is black: nothing would be drawn anew"): white * 0,
    }
    wanted, causes = torch.from_numpy(white), {cause: torch.from_numpy(x) for cause, x in causes.items()}
    praise = tr("what is white is drawn anew, and the rest is kept.")
    return compare(np.asarray(got).copy(), wanted, praise, causes, 1e-9)


def swap(function) -> Verdict:
    """Exercise 3: another scheduler on the same schedule."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin

    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    old = DDIMScheduler(**config, timestep_spacing="trailing", num_train_timesteps=800)
    got, failed = attempt(function, old, DPMSolverMultistepScheduler)
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    if got is old:
        return wrong(tr("the old scheduler came back, expected a new one of the given class."))
    if got is DPMSolverMultistepScheduler:
        return wrong(tr("the class itself came back: make a scheduler with its from_config."))
    if not isinstance(got, SchedulerMixin):
        return wrong(tr("got {kind}, expected a scheduler of the given class.", kind=type(got).__name__))
    if not isinstance(got, DPMSolverMultistepScheduler):
        return wrong(tr("got a {kind}, expected the class that was given.", kind=type(got).__name__))
    lost = [k for k in (*config, "timestep_spacing", "num_train_timesteps") if got.config[k] != old.config[k]]
    if lost:
        return wrong(
            tr(
                "the new scheduler has its own {settings}, so the network would be asked about noise that "
                "it never met: take over the old one's config.",
                settings=tr(" and ").join(lost),
            )
        )
    return right(tr("the new scheduler steps its own way on the noise that the network knows."))


def to_pixels(function) -> Verdict:
    """Exercise 4: from the network's range to the bytes of a file."""
    x = torch.randn((3, 5, 6), generator=torch.Generator().manual_seed(3))
    x[:, 0, 0], x[:, 0, 1], x[:, 0, 2] = 1.6, -1.3, 1.0
    got, failed = attempt(function, x.clone())
    if failed is not None:
        return failed
    if got is None or got is Ellipsis:
        return empty()
    try:
        got = np.asarray(got).copy()  # a PIL image's is read-only
    except (TypeError, ValueError, RuntimeError):
        return wrong(tr("got {kind}, expected an array of shape (5, 6, 3).", kind=type(got).__name__))
    if got.shape == (3, 5, 6):
        return wrong(tr("got shape (3, 5, 6): a file wants the colours last, permute(1, 2, 0)."))
    if got.dtype != np.uint8 and got.shape == (5, 6, 3):
        return wrong(tr("got numbers of type {dtype}, expected uint8, the bytes of a file.", dtype=got.dtype))
    exact = ((x.double() + 1) * 127.5).permute(1, 2, 0)
    dark = (x.double().clamp(0, 1) * 255).round().permute(1, 2, 0)
    causes = {
        tr("what lies outside of [-1, 1] wraps round to the other end: clamp it first"): exact.round() % 256,
        tr("what lies outside of [-1, 1] wraps round, and the rest is cut, not rounded"): exact.trunc() % 256,
        tr("the numbers are cut, not rounded: half of them come out one too dark"): (
            exact.clamp(0, 255).trunc()
        ),
        tr("this is [0, 1] times 255: the network's range begins at -1"): dark,
    }
    return compare(
        got, exact.clamp(0, 255).round(), tr("-1 is 0, 1 is 255, and nothing wraps."), causes, 1e-9
    )


SPACED = {"beta_schedule": "scaled_linear", "timestep_spacing": "leading"}  # the first t depends on the steps


class _Model:
    """A stand-in for a network, which notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, xt, t, **settings):
        self.asked.append(torch.as_tensor(t).item())
        return SimpleNamespace(sample=torch.tanh(xt) * (0.5 + torch.as_tensor(t) / 2000))


def _sampled(scheduler, noise, steps, begin=True, look=True, keep=False, early=False):
    """The loop over a fresh scheduler; each setting that is changed makes one mistake."""
    model, scheduler = _Model(), type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps + 1 if early else steps)
    xt = noise * scheduler.init_noise_sigma if begin else noise
    scheduler.set_timesteps(steps)
    scheduler.is_scale_input_called = True
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(xt, t)
        xt = seen if keep else xt
        xt = scheduler.step(model(seen if look else xt, t).sample, t, xt).prev_sample
    return xt


def loop(function) -> Verdict:
    """Exercise 5: the denoising loop, for schedulers with and without scaling."""
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    noise, steps = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(23)), 6
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        model, scheduler = _Model(), kind(**SPACED)
        scheduler.set_timesteps(steps + 1)  # an old setting, which the loop must not go by
        scheduler.is_scale_input_called = True  # else Euler's warns, before the verdict says what is wrong
        got, failed = attempt(function, model, scheduler, noise.clone(), steps)
        if failed is not None:
            return failed
        verdict = _loop_verdict(got, model.asked, kind(**SPACED), noise, steps)
        if not verdict:
            return verdict
    return verdict


def _loop_verdict(got, asked, scheduler, noise, steps):
    """What is to be said of a sample, and of the timesteps at which the model was asked for it."""
    if got is None or got is Ellipsis:
        return empty()
    if isinstance(got, SimpleNamespace):
        return wrong(tr("got the model's whole output: its answer is its .sample."))
    if hasattr(got, "prev_sample"):
        return wrong(tr("got all that the step returned: the sample is its .prev_sample."))
    if len(asked) != steps:
        return wrong(
            tr(
                "the model was asked {asked} times, expected {steps}: set_timesteps(steps) first, then one "
                "call for each of scheduler.timesteps.",
                asked=len(asked),
                steps=steps,
            )
        )
    scheduler.set_timesteps(steps)
    if asked != scheduler.timesteps.tolist():
        return wrong(
            tr(
                "the model was asked at {asked}..., expected {wanted}...: it wants the "
                "timestep, not its number.",
                asked=asked[:3],
                wanted=scheduler.timesteps.tolist()[:3],
            )
        )
    name = type(scheduler).__name__
    causes = {
        tr("with {name}, the noise is too weak: multiply it by init_noise_sigma", name=name): {
            "begin": False
        },
        tr(
            "with {name}, init_noise_sigma is read before set_timesteps, which may change it: read it after",
            name=name,
        ): {"early": True},
        tr("with {name}, the model sees xt unscaled: give it scale_model_input(xt, t)", name=name): {
            "look": False
        },
        tr("with {name}, the step gets the scaled input: give it xt as it was", name=name): {"keep": True},
        tr("with {name}, both init_noise_sigma and scale_model_input are missing", name=name): {
            "begin": False,
            "look": False,
        },
    }
    wrongs = {cause: _sampled(scheduler, noise, steps, **mistake) for cause, mistake in causes.items()}
    praise = tr("the same loop serves schedulers that scale and schedulers that do not.")
    return compare(got, _sampled(scheduler, noise, steps), praise, wrongs, 1e-4)
