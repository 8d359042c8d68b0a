"""On a GPU, with networks of full size (Stable Diffusion 1.x, random weights): pictures/s, memory."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks import pictures
from benchmarks.draw import bar_charts
from benchmarks.measure import Bar, medians, turns
from course_utils import checkpoints, dreambooth, profile, train
from recipes import sd

STEPS = 25


def measure(quick: bool) -> dict | str:
    """Pictures/s against the stock pipeline's default call, and the peak memory of DreamBooth."""
    if profile.device() != "cuda":
        return f"not measured: got {profile.device()}, expected a GPU with CUDA for networks of full size"
    pipeline = full_size().to("cuda")
    return compare(pipeline, prompts=1 if quick else 4, rounds=1 if quick else 5)


def full_size() -> StableDiffusionPipeline:
    """Stable Diffusion 1.x in its shapes, with random weights and the course's tokenizer."""
    torch.manual_seed(0)
    sides = (128, 256, 512, 512)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=sides,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    tokenizer = CLIPTokenizer.from_pretrained(checkpoints.verified("clip"))
    parts = {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(text), "tokenizer": tokenizer}
    whole = {name: part.eval() if hasattr(part, "eval") else part for name, part in parts.items()}
    return StableDiffusionPipeline(**whole, scheduler=sd.scheduler(), **sd.UNCHECKED)


def compare(pipeline, prompts: int, rounds: int, steps: int = STEPS) -> dict:
    """Pictures/s of the course and of the stock call, the largest difference, and GB for each way."""
    words = pictures.PROMPTS[:prompts]
    seconds = medians(turns(pictures.contestants(pipeline, words, steps, "auto"), rounds))
    return {
        "pictures_per_second": {who: prompts / value for who, value in seconds.items()},
        "ratio": seconds["Diffusers"] / seconds["course"],
        "shades": pictures.shades(pipeline, words, steps, "auto"),
        "dreambooth_peak_gb": {way: peak_gb(pipeline, way) for way in dreambooth.WAYS},
    }


def peak_gb(pipeline, way: str, steps: int = 2) -> float:
    """The most memory of a training with prior preservation, batch 1 + 1, on the subject's own pictures."""
    words = dreambooth.Words("creature")
    subject = dreambooth.pictures("ember", dreambooth.size_px(pipeline), 2)
    learner = dreambooth.learner(pipeline, way, thrifty=True)
    torch.cuda.reset_peak_memory_stats()
    examples = dreambooth.encode(pipeline, subject.images, dreambooth.prompts_of(subject, words))
    examples = dreambooth.ready(pipeline, learner, examples)
    batch_at = dreambooth.batches(examples, examples, 1)  # what is kept costs as much as what is learned
    run = train.Run(learner, train.Recipe(steps, dreambooth.rate(way), ema_decay=0))
    loss = dreambooth.loss(pipeline.scheduler.alphas_cumprod, "v")
    for _ in train.train(run, lambda n: [part.to(run.device) for part in batch_at(n)], loss):
        pass
    return torch.cuda.max_memory_allocated() / 1e9


def bars(result: dict) -> list[Bar]:
    """At least twice the stock call."""
    return [Bar("pictures/s over the stock pipeline's default call", result["ratio"], "at least", 2)]


def draw(result: dict):
    """Pictures/s, and memory."""
    panels = {"pictures/s": result["pictures_per_second"]}
    panels["DreamBooth's peak memory, GB"] = result["dreambooth_peak_gb"]
    return bar_charts(panels, "pictures/s; GB")
