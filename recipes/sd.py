"""Train the U-Net of `sd`, a StableDiffusionPipeline of the course's scenes, on the latents of its VAE.

python -m recipes.sd          about 35 minutes on 2 CPU cores; goes on where it was stopped
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from course_utils import diffusion, train
from recipes import clip, common, vae

STEPS, BATCH, PICTURES = 8000, 64, 40_000
UNSAID = 0.1  # share of pictures shown with the empty caption, for classifier-free guidance
RECIPE = train.Recipe(
    steps=STEPS, learning_rate=1.5e-3, warmup_steps=200, ema_decay=0.999, precision="fp32"
)  # 8 x 8 latents: bfloat16 gains no time


def network(in_channels: int = 4, **settings) -> UNet2DConditionModel:
    """An untrained U-Net: 8 x 8, 4 x 4 and 2 x 2, cross-attention to the text at the first two."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 160, 192),
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


def main() -> None:
    torch.manual_seed(0)
    scenes = common.scenes(PICTURES)
    auto, (text_encoder, tokenizer) = vae.load(), clip.load()
    latents = vae.encode(auto, scenes.images) * auto.config.scaling_factor
    text = read_captions(text_encoder, tokenizer, scenes.captions)
    empty = read_captions(text_encoder, tokenizer, [""])

    def batch_at(n):
        chosen = common.rows(n, BATCH, PICTURES)
        unsaid = torch.rand(BATCH, generator=torch.Generator().manual_seed(n)) < UNSAID
        return latents[chosen], torch.where(unsaid[:, None, None], empty, text[chosen]).float()

    common.fit("sd", network(), RECIPE, batch_at, conditional_loss)


if __name__ == "__main__":
    main()
