"""Train the U-Net of `sd`, a StableDiffusionPipeline of the course's scenes, on the latents of its VAE.

About two and a half hours on 2 CPU cores; goes on where it was stopped.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from course_utils import diffusion, train
from recipes import clip, common, score, vae

STEPS, BATCH = 18_000, 64
UNSAID = 0.1  # share of pictures shown with the empty caption, for classifier-free guidance
ABOUT = """Text to image and image to image: scenes of 64 x 64 pixels with a subject (butterfly, flower, fish,
bird, mushroom, creature), a colour, a pattern, a background and a style."""
RECIPE = train.Recipe(
    steps=STEPS, learning_rate=1.5e-3, warmup_steps=200, ema_decay=0.999, precision="fp32"
)  # 8 x 8 latents: bfloat16 gains no time


def network(in_channels: int = 4, sample_size: int = 8, **settings) -> UNet2DConditionModel:
    """An untrained U-Net of two sizes, full and half, with cross-attention to the text at both."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(96, 96),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads: Diffusers keeps the field's old name for it
        norm_num_groups=16,
        **settings,
    )


def conditional_loss(model, batch, generator):
    """Mean squared error of v (Salimans & Ho 2022) at uniform timesteps; the text goes to cross-attention."""
    x0, text, *beside = batch
    alpha_bar = diffusion.cosine_alpha_bar()
    t = torch.randint(0, len(alpha_bar), (len(x0),), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    xt = torch.cat([diffusion.add_noise(x0, eps, t, alpha_bar), *beside], 1)
    return nn.functional.mse_loss(
        model(xt, t, text).sample.float(), diffusion.target(x0, eps, t, alpha_bar, "v")
    )


@torch.no_grad()
def read_captions(text_encoder, tokenizer, captions) -> torch.Tensor:
    """Captions -> last hidden states, padded to 77 tokens as the pipeline does: (N, 77, 128)."""
    tokens = tokenizer(list(captions), padding="max_length", max_length=77, return_tensors="pt").input_ids
    return torch.cat([text_encoder(part).last_hidden_state.half() for part in tokens.split(200)])


def conditions(scenes, name: str = "vae") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the training scenes: latents of the VAE `name` with a variance of 1, their captions' states, and
    those of the empty caption."""
    text_encoder, tokenizer = clip.load()
    text = common.kept("clip-states", lambda: read_captions(text_encoder, tokenizer, scenes.captions))
    return vae.latents(name, scenes.images), text, read_captions(text_encoder, tokenizer, [""])


def batch_at(n: int, latents, text, empty, *beside) -> tuple[torch.Tensor, ...]:
    """Batch n: latents, states of their captions, a tenth of them empty, and what else belongs to them."""
    chosen = common.rows(n, BATCH, len(latents))
    unsaid = torch.rand(BATCH, generator=torch.Generator().manual_seed(n)) < UNSAID
    states = torch.where(unsaid[:, None, None], empty, text[chosen]).float()
    return latents[chosen], states, *(values[chosen] for values in beside)


def scheduler() -> DDIMScheduler:
    """Deterministic, on the schedule that the U-Nets were trained with."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # without an effect here, but pipelines ask for it
    )


# drawn scenes need no safety checker
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def assemble(loader, unet, **more):
    """A pipeline of class `loader` around a U-Net, in float32."""
    text_encoder, tokenizer = clip.load()
    parts = {"vae": vae.load(), "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet.eval()}
    return loader(**(parts | {"scheduler": scheduler()} | more))


def build() -> None:
    """Train it, save it with its card, and print how good it is."""
    torch.manual_seed(0)
    parts = conditions(common.scenes(common.PICTURES))
    unet = common.fit("sd", network(), RECIPE, lambda n: batch_at(n, *parts), conditional_loss)
    pipeline = assemble(StableDiffusionPipeline, unet, **UNCHECKED)
    facts = score.text_to_image(pipeline)
    common.publish("sd", pipeline, ABOUT, facts)
