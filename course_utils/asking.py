"""Ask a text-to-image pipeline for pictures, and let a judge read whether it drew what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from course_utils import profile, scores, train
from course_utils.data import grammar


def medium() -> str:
    """How prompts begin at this scale: what the pictures are."""
    return profile.pick(mini="a drawing of a", full="a photo of a")


def usual() -> dict:
    """What `generate` is given for many pictures: steps, how many at once, and the precision."""
    steps, batch = profile.effort(mini=20, full=25), profile.pick(mini=64, full=4)
    return {"steps": steps, "batch": batch, "precision": profile.pick(mini="auto", full="fp32")}


@torch.no_grad()
def generate(
    pipeline,
    texts: Sequence[str],
    seed=1,
    batch=50,
    steps=25,
    latents: bool = False,
    precision="fp32",
    **settings,
) -> Tensor:
    """Pictures for prompts by the stock pipeline: (N, 3, H, W) in [-1, 1]; or latents, (N, C, h, w).

    precision: see `train.autocast`; "fp32" is that of the pipeline's own weights. settings: of the pipeline's
    call; those that are lists have a value for each prompt.
    """
    generator, parts, texts = torch.Generator().manual_seed(seed), [], list(texts)
    pipeline.set_progress_bar_config(disable=True)
    form = "latent" if latents else "np"
    for i in range(0, len(texts), batch):
        part = {k: v[i : i + batch] if isinstance(v, list) else v for k, v in settings.items()}
        with train.autocast(pipeline.unet.device, "fp16" if _is_mixed(pipeline) else precision):
            made = pipeline(
                texts[i : i + batch], num_inference_steps=steps, generator=generator, output_type=form, **part
            ).images
        parts.append(made.float() if latents else torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(parts)


def _is_mixed(pipeline):
    """Whether some of its parts are in single and some in half precision."""
    return len({part.dtype for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae)}) > 1


def prompts(count: int, combinations: str, seed: int, **fixed: str) -> tuple[list[str], dict[str, Tensor]]:
    """Full captions of random attributes, and those attributes: name -> (count,).

    combinations, fixed: see `data.scenes`.
    """
    rng = np.random.default_rng(seed)
    chosen = [grammar.choose(rng, combinations, **fixed) for _ in range(count)]
    wanted = {name: torch.tensor([c[name] for c in chosen]) for name in grammar.ATTRIBUTES}
    return [grammar.caption(c, rng) for c in chosen], wanted


def right(judge, x: Tensor, wanted: dict[str, Tensor]) -> dict[str, float]:
    """Share of pictures with each attribute as wanted, and with "all" of them."""
    hits = {name: scores.read(judge, x, name).answer == values for name, values in wanted.items()}
    hits["all"] = torch.stack(list(hits.values())).all(0)
    return {name: hit.float().mean().item() for name, hit in hits.items()}
