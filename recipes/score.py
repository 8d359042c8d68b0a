"""How good a text-to-image miniature is, read by the judge of scenes, which never saw a generated picture."""

from __future__ import annotations

import torch

from course_utils import data, scores
from course_utils.asking import generate, prompts, right
from course_utils.data import grammar
from recipes import common, vae


def captions_of(wanted: dict[str, torch.Tensor]) -> list[str]:
    """The plainest captions of given attributes."""
    rows = zip(*(values.tolist() for values in wanted.values()), strict=True)
    return [grammar.caption(dict(zip(wanted, row, strict=True))) for row in rows]


def text_to_image(pipeline, count: int = 500) -> dict[str, str]:
    """Accuracy of seen and held-out combinations beside its ceilings, sharpness, diversity, copies."""
    judge = scores.load_judge("judge-scenes")
    drawn = data.scenes(1000, seed=common.TEST_SEED, combinations="any")
    real, rebuilt = data.to_model(drawn.images), vae.rebuild(pipeline.vae, drawn.images)
    facts = {
        "right, drawings": shares(right(judge, real, drawn.labels)),
        "right, drawings through the VAE": shares(right(judge, rebuilt, drawn.labels)),
    }
    made = {}
    for combinations in ("seen", "held out"):
        texts, wanted = prompts(count, combinations, common.TEST_SEED)
        made[combinations] = generate(pipeline, texts)
        facts[f"right, {combinations} combinations"] = shares(right(judge, made[combinations], wanted))
    generated, through = sharpness(judge, pipeline.vae, torch.cat(list(made.values())), real)
    facts["Fréchet distance to drawings"] = f"{generated:.1f} (of others through the VAE: {through:.1f})"
    return facts | _spread(pipeline) | _copies(made["seen"])


def sharpness(judge, auto, made: torch.Tensor, real: torch.Tensor) -> tuple[float, float]:
    """Fréchet distance to drawings `real` of what was made, and of as many other drawings through the VAE.

    Other ones, and as many: the distance falls with the number of pictures, and is next to nothing between
    the same drawings before and after.
    """
    other = data.scenes(len(made), seed=common.TEST_SEED + 1, combinations="any")
    known, new, through = (scores.features(judge, x) for x in (real, made, vae.rebuild(auto, other.images)))
    return scores.frechet_distance(new, known), scores.frechet_distance(through, known)


def shares(hits: dict[str, float]) -> str:
    """For a card: each share by its name."""
    return ", ".join(f"{name} {share:.1%}" for name, share in hits.items())


def _spread(pipeline):
    """Diversity of 64 samples of one prompt, and of 64 drawings of it."""
    fixed = dict(zip(grammar.ATTRIBUTES, ("butterfly", "blue", "spots", "meadow", "flat"), strict=True))
    drawn = data.scenes(64, seed=common.TEST_SEED, combinations="any", **fixed)
    text = grammar.caption({name: grammar.ATTRIBUTES[name].index(v) for name, v in fixed.items()})
    samples, drawings = generate(pipeline, [text] * 64, batch=64), data.to_model(drawn.images)
    own, other = scores.diversity(samples), scores.diversity(drawings)
    return {f"diversity of '{text}'": f"{own:.3f} (of drawings: {other:.3f})"}


def _copies(samples):
    """Distance of samples to the nearest training picture, and of unseen drawings."""
    known = data.to_model(common.scenes(common.PICTURES).images[:10_000])
    unseen = data.to_model(data.scenes(len(samples), seed=common.TEST_SEED).images)
    own, other = (scores.nearest(x, known)[0].mean().item() for x in (samples, unseen))
    return {"distance to the nearest training picture": f"{own:.3f} (of unseen drawings: {other:.3f})"}
