"""The checks of the quick tour: each usual mistake is refused with the sentence that names it."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from PIL import Image, ImageDraw

from course_utils import check, data


def one(seed):
    return torch.Generator().manual_seed(seed)


def many(pipeline, prompt, seeds, **settings):
    return pipeline(prompt, num_images_per_prompt=len(seeds), **settings).images


def shared(pipeline, prompt, seeds):
    generator = one(seeds[0])
    return [pipeline(prompt, generator=generator).images[0] for _ in seeds]


def reseeded(seeds):
    generator = torch.Generator()
    return [generator.manual_seed(seed) for seed in seeds]


SEEDS = {
    "draw from one generator": lambda p, w, s: many(p, w, s, generator=one(s[0])),
    "second depends on the first": shared,
    "from the first seed": lambda p, w, s: many(p, w, s, generator=[one(s[0]) for _ in s]),
    "order of the seeds": lambda p, w, s: many(p, w, s, generator=[one(n) for n in sorted(s)]),
    "its last seed counts": lambda p, w, s: many(p, w, s, generator=reseeded(s)),
    "their places in the list": lambda p, w, s: many(p, w, s, generator=[one(i) for i in range(len(s))]),
    "got 4 calls of the pipeline": lambda p, w, s: [p(w, generator=one(n)).images[0] for n in s],
    "got pictures of 'a bird'": lambda p, w, s: many(p, "a bird", s, generator=[one(n) for n in s]),
    "other pictures": many,
    "its .images": lambda p, w, s: p(w, num_images_per_prompt=len(s), generator=[one(n) for n in s]),
    "ValueError: got 4 generators": lambda p, w, s: p(w, generator=[one(n) for n in s]).images,
    "got 1 pictures for 4 seeds": lambda p, w, s: p(w, generator=one(s[0])).images,
}
SWAP = {
    "its own beta_schedule and prediction_type and timestep_spacing": lambda s, kind: kind(),
    "its own timestep_spacing": lambda s, kind: kind(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", num_train_timesteps=800
    ),
    "class itself": lambda s, kind: kind,
    "old scheduler": lambda s, kind: s,
    "got a EulerDiscreteScheduler": lambda s, kind: EulerDiscreteScheduler.from_config(s.config),
    "got FrozenDict": lambda s, kind: s.config,
    "got a DDPMScheduler": lambda s, kind: DDPMScheduler(),
    "nothing came back": lambda s, kind: setattr(s, "other", kind),
}


def stretched(x):
    return (x + 1) * 127.5


PIXELS = {
    "clamp it first": lambda x: (
        stretched(x).round().to(torch.int64).remainder(256).to(torch.uint8).permute(1, 2, 0)
    ),
    "wraps round, and the rest is cut": lambda x: (
        stretched(x).to(torch.int64).remainder(256).to(torch.uint8).permute(1, 2, 0)
    ),
    "cut, not rounded": lambda x: stretched(x.clamp(-1, 1)).to(torch.uint8).permute(1, 2, 0),
    "range begins at -1": lambda x: (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0),
    "colours last": lambda x: stretched(x.clamp(-1, 1)).round().to(torch.uint8),
    "expected uint8": lambda x: stretched(x.clamp(-1, 1)).round().permute(1, 2, 0),
    "got shape (6, 5, 3)": lambda x: stretched(x.clamp(-1, 1)).round().to(torch.uint8).permute(2, 1, 0),
}


def painted(width, height, box, colour=255, ground=0, mode="L"):
    mask = Image.new(mode, (width, height), ground)
    mask.paste(colour, box)
    return mask


def array(width, height):
    return np.zeros((height, width), np.uint8)


def turned(width, height, box):
    mask, (left, top, right, bottom) = array(width, height), box
    mask[left:right, top:bottom] = 255
    return Image.fromarray(mask)


def closed(width, height, box):
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).rectangle(box, fill=255)  # which includes the right and bottom edges
    return mask


MASKS = {
    "black and white have changed places": lambda w, h, box: painted(w, h, box, 0, 255),
    "nearly black": lambda w, h, box: painted(w, h, box, 1),
    "rows and columns have changed places": turned,
    "one pixel too wide": closed,
    "all is white": lambda w, h, box: Image.new("L", (w, h), 255),
    "all is black": lambda w, h, box: Image.new("L", (w, h)),
    "got 8 x 12 pixels": lambda w, h, box: painted(h, w, box),
    "mode RGB": lambda w, h, box: painted(w, h, box, (255, 255, 255), (0, 0, 0), "RGB"),
    "mode F": lambda w, h, box: Image.fromarray(array(w, h).astype(np.float32)),
    "got ndarray": lambda w, h, box: array(w, h),
    "largest difference": lambda w, h, box: painted(w, h, (0, 0, 3, 3)),
    "nothing came back": lambda w, h, box: None,
}


def walk(model, scheduler, noise, steps, begin=True, look=True, keep=False, number=False, early=False):
    """The loop of exercise 5, with one mistake or another."""
    sigma = scheduler.init_noise_sigma
    scheduler.set_timesteps(steps)
    sigma = sigma if early else scheduler.init_noise_sigma
    xt = noise * sigma if begin else noise
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(xt, t)
        xt = seen if keep else xt
        answer = model(seen if look else xt, torch.tensor(i) if number else t).sample
        xt = scheduler.step(answer, t, xt).prev_sample
    return xt


def unset(model, scheduler, noise, steps):
    xt = noise
    for t in scheduler.timesteps:
        xt = scheduler.step(model(xt, t).sample, t, xt).prev_sample
    return xt


def whole_step(model, scheduler, noise, steps):
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps[0]
    return scheduler.step(model(noise, t).sample, t, noise)


def twice(model, scheduler, noise, steps):
    scheduler.set_timesteps(steps)
    xt = noise
    for t in scheduler.timesteps:
        answer = model(xt, t).sample
        scheduler.step(answer, t, xt)
        xt = 0.5 * scheduler.step(answer, t, xt).prev_sample
    return xt


LOOPS = {
    "multiply it by init_noise_sigma": lambda *given: walk(*given, begin=False),
    "read before set_timesteps": lambda *given: walk(*given, early=True),
    "give it scale_model_input(xt, t)": lambda *given: walk(*given, look=False),
    "give it xt as it was": lambda *given: walk(*given, keep=True),
    "both init_noise_sigma and scale_model_input": lambda *given: walk(*given, begin=False, look=False),
    "not its number": lambda *given: walk(*given, number=True),
    "asked 7 times, expected 6": unset,
    "its .prev_sample": whole_step,
    "its .sample": lambda model, scheduler, noise, steps: model(noise, 999),
    "largest difference": twice,
    "nothing came back": lambda model, scheduler, noise, steps: None,
    "got list": lambda *given: [walk(*given)] and [None for _ in given[0].asked],
}
ALL = [
    pytest.param(getattr(check.quicktour, name), answer, words, id=f"{name}-{words}")
    for name, answers in (
        ("seeds", SEEDS),
        ("box_mask", MASKS),
        ("swap", SWAP),
        ("to_pixels", PIXELS),
        ("loop", LOOPS),
    )
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), ALL)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_other_right_answers_pass():
    """A list of prompts, a stacked tensor; a PIL image, a NumPy array."""

    def as_a_list(pipeline, prompt, seeds):
        return torch.stack(pipeline([prompt] * len(seeds), generator=[one(n) for n in seeds]).images)

    def drawn(width, height, box):
        left, top, right, bottom = box
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
        return mask

    assert check.quicktour.box_mask(painted)
    assert check.quicktour.box_mask(drawn)
    assert check.quicktour.loop(walk)
    assert check.quicktour.seeds(as_a_list)
    assert check.quicktour.to_pixels(lambda x: data.to_uint8(x).permute(1, 2, 0).numpy())
    picture = lambda x: Image.fromarray(np.ascontiguousarray(data.to_uint8(x).numpy().transpose(1, 2, 0)))  # noqa: E731
    assert check.quicktour.to_pixels(picture)
