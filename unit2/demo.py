"""A page in the browser: choose a colour, press, and see a butterfly of that colour.

The miniature ddpm-butterflies has never been told of colours; a loss guides it, as in notebook unit2/01.
"""

from __future__ import annotations

import argparse

import torch
from diffusers import DDPMPipeline

from course_utils import checkpoints, demo, diffusion, guidance, script

STEPS = 40


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=script.Help)
    parser.add_argument(
        "--host", default="127.0.0.1", help="who may come: 0.0.0.0 for all who reach this machine"
    )
    parser.add_argument("--port", type=int, help="where it listens; the first free one from 7860 on")
    return parser.parse_args(arguments)


def sampler() -> demo.Sample:
    """The guided sampler: (colour, scale, seed) -> the steps of DDIM, steered by the colour's loss."""
    pipeline = checkpoints.load(DDPMPipeline, "ddpm-butterflies")
    unet, alpha_bar = pipeline.unet.requires_grad_(False), pipeline.scheduler.alphas_cumprod
    denoise = diffusion.denoiser(unet, alpha_bar, "x0", gradients=True)
    size_px = unet.config.sample_size

    def sample(colour, scale, seed):
        noise = torch.randn((1, 3, size_px, size_px), generator=torch.Generator().manual_seed(seed))
        loss = guidance.colour_loss(colour)
        guided = guidance.by_loss(denoise, loss, alpha_bar, scale, through_model=True)
        return diffusion.ddim(guided, noise.to(unet.device), alpha_bar, diffusion.spaced_timesteps(STEPS))

    return sample


def main(arguments: list[str] | None = None) -> None:
    """Show the page until Ctrl-C."""
    options = parse(arguments)
    demo.launch(demo.page(sampler(), STEPS), host=options.host, server_port=options.port)


if __name__ == "__main__":
    main()
