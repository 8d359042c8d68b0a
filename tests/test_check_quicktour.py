"""The checks of the quick tour: each usual mistake is refused with the sentence that names it."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from PIL import Image

from course_utils import check, data


def one(seed):
    return torch.Generator().manual_seed(seed)


def many(pipeline, prompt, seeds, **settings):
    return pipeline(prompt, num_images_per_prompt=len(seeds), **settings).images


def shared(pipeline, prompt, seeds):
    generator = one(seeds[0])
    return [pipeline(prompt, generator=generator).images[0] for _ in seeds]


SEEDS = {
    "draw from one generator": lambda p, w, s: many(p, w, s, generator=one(s[0])),
    "second depends on the first": shared,
    "from the first seed": lambda p, w, s: many(p, w, s, generator=[one(s[0]) for _ in s]),
    "order of the seeds": lambda p, w, s: many(p, w, s, generator=[one(n) for n in sorted(s)]),
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
ALL = [
    pytest.param(getattr(check.quicktour, name), answer, words, id=f"{name}-{words}")
    for name, answers in (("seeds", SEEDS), ("swap", SWAP), ("to_pixels", PIXELS))
    for words, answer in answers.items()
]


@pytest.mark.parametrize(("check_answer", "answer", "words"), ALL)
def test_a_usual_mistake_is_named(check_answer, answer, words):
    verdict = check_answer(answer)
    assert not verdict
    assert words in verdict.message


def test_other_right_answers_pass():
    """One call for each seed, a list of prompts, a stacked tensor; a PIL image, a NumPy array."""

    def one_by_one(pipeline, prompt, seeds):
        return [pipeline(prompt, generator=one(seed)).images[0] for seed in seeds]

    def as_a_list(pipeline, prompt, seeds):
        return torch.stack(pipeline([prompt] * len(seeds), generator=[one(n) for n in seeds]).images)

    assert check.quicktour.seeds(one_by_one)
    assert check.quicktour.seeds(as_a_list)
    assert check.quicktour.to_pixels(lambda x: data.to_uint8(x).permute(1, 2, 0).numpy())
    picture = lambda x: Image.fromarray(np.ascontiguousarray(data.to_uint8(x).numpy().transpose(1, 2, 0)))  # noqa: E731
    assert check.quicktour.to_pixels(picture)
