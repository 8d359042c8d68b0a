"""Pipelines of Stable Diffusion with random weights, like the miniatures: for what no training changes."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from course_utils import checkpoints
from recipes import sd, vae


def pipeline(loader, in_channels: int = 4, prediction: str = "v_prediction", **parts):
    """A pipeline of class `loader`, its VAE smaller than the miniatures', with the text encoder of `clip`."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    coder, unet = vae.network((16, 16, 16, 16)).eval(), sd.network(in_channels).eval()
    torch.random.set_rng_state(state)
    with (
        torch.no_grad()
    ):  # an untrained decoder answers with a grey, an untrained encoder with nearly one latent
        coder.decoder.conv_out.weight *= 8
        coder.quant_conv.weight *= 4
    clip, schedule = checkpoints.verified("clip"), sd.scheduler().config
    if prediction == "epsilon":  # with the miniatures' schedule it would divide by 0 at the last timestep
        schedule = {**schedule, "beta_schedule": "scaled_linear", "prediction_type": prediction}
    whole = {
        "vae": coder,
        "unet": unet,
        "scheduler": DDIMScheduler.from_config(schedule),
        "text_encoder": CLIPTextModel.from_pretrained(clip).eval(),
        "tokenizer": CLIPTokenizer.from_pretrained(clip),
    }
    made = loader(**(whole | parts))
    made.set_progress_bar_config(disable=True)
    return made


def shades(a, b) -> float:
    """The largest difference of two sets of pictures in [-1, 1], in shades of 255."""
    return ((a - b).abs().max() * 127.5).item()
