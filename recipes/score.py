"""How good a text-to-image miniature is, read by the judge of scenes, which never saw a generated picture."""

from __future__ import annotations

import numpy as np
import torch

from course_utils import data, scores
from course_utils.data import grammar
from recipes import common, vae


def prompts(count: int, combinations: str, seed: int = common.TEST_SEED) -> tuple[list[str], dict]:
    """Full captions of random attributes, and those attributes: name -> (count,)."""
    rng = np.random.default_rng(seed)
    chosen = [grammar.choose(rng, combinations) for _ in range(count)]
    wanted = {name: torch.tensor([c[name] for c in chosen]) for name in grammar.ATTRIBUTES}
    return [grammar.caption(c, rng) for c in chosen], wanted


def captions_of(wanted: dict[str, torch.Tensor]) -> list[str]:
    """The plainest captions of given attributes."""
    rows = zip(*(values.tolist() for values in wanted.values()), strict=True)
    return [grammar.caption(dict(zip(wanted, row, strict=True))) for row in rows]


def generate(pipeline, texts, seed: int = 1, batch: int = 50, steps: int = 25, **settings) -> torch.Tensor:
    """Pictures for prompts by the stock pipeline: (N, 3, H, W) in [-1, 1]."""
    generator, parts = torch.Generator().manual_seed(seed), []
    pipeline.set_progress_bar_config(disable=True)
    for i in range(0, len(texts), batch):
        part = {k: v[i : i + batch] if isinstance(v, list) else v for k, v in settings.items()}
        made = pipeline(
            texts[i : i + batch], num_inference_steps=steps, generator=generator, output_type="np", **part
        ).images
        parts.append(torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(parts)


def right(judge, x: torch.Tensor, wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of pictures with each attribute as wanted, and with "all" of them."""
    hits = {name: scores.read(judge, x, name).answer == values for name, values in wanted.items()}
    hits["all"] = torch.stack(list(hits.values())).all(0)
    return {name: hit.float().mean().item() for name, hit in hits.items()}


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
        texts, wanted = prompts(count, combinations)
        made[combinations] = generate(pipeline, texts)
        facts[f"right, {combinations} combinations"] = shares(right(judge, made[combinations], wanted))
    real, rebuilt, new = (scores.features(judge, x) for x in (real, rebuilt, torch.cat(list(made.values()))))
    generated, through = (scores.frechet_distance(x, real) for x in (new, rebuilt))
    facts["Fréchet distance to drawings"] = f"{generated:.1f} (of drawings through the VAE: {through:.1f})"
    return facts | _spread(pipeline) | _copies(made["seen"])


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
    known = data.to_model(common.scenes(40_000).images[:10_000])
    unseen = data.to_model(data.scenes(len(samples), seed=common.TEST_SEED).images)
    own, other = (scores.nearest(x, known)[0].mean().item() for x in (samples, unseen))
    return {"distance to the nearest training picture": f"{own:.3f} (of unseen drawings: {other:.3f})"}
