"""Fine-tune a trained unconditional diffusion model on other pictures, as notebook unit2/01 does.

Give it a model (a miniature of the course, the folder of a pipeline, or an id on the Hub) and pictures (a
named set, a folder, or the id of a set on the Hub). Size, schedule and target are those that the model was
trained with. It writes everything into one folder: loss.jsonl, pictures in samples/, TensorBoard logs in
logs/, checkpoints, and at the end pipeline/, which `DDPMPipeline.from_pretrained` opens. Stopped at any
moment, it goes on with --resume as if nothing had happened.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffusers import DDPMPipeline, DDPMScheduler

from course_utils import checkpoints, downloads, script

EXAMPLES = """examples:
  python unit2/finetune_model.py --data butterflies --output runs/flowers_to_butterflies
  python unit2/finetune_model.py --model google/ddpm-cat-256 --data ~/pictures --batch-size 4 --accumulate 4
  python unit2/finetune_model.py --data butterflies --output runs/flowers_to_butterflies --resume
  tensorboard --logdir runs
several processes (on GPUs, or on the cores of a CPU; --multi_gpu is what makes accelerate start them):
  accelerate launch --multi_gpu --num_processes 2 unit2/finetune_model.py --output runs/two_processes
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=script.Help)
    parser.add_argument_group("model").add_argument(
        "--model", default="ddpm-flowers", help="a miniature, the folder of a DDPMPipeline, or its Hub id"
    )
    script.add_pictures(parser)
    script.add_training(parser, learning_rate=1e-3)
    script.add_writing(parser, output="runs/finetuned")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, load: script.Load):
    """The pictures, the trained network, and the scheduler that it was trained with."""
    pipeline = open_pipeline(options.model)
    unet = pipeline.unet.float()
    images = load(unet.config.sample_size)
    if images.shape[1] != unet.config.in_channels:
        raise ValueError(
            f"got pictures with {images.shape[1]} channels for a model of "
            f"{unet.config.in_channels}, expected as many: choose pictures that are like the model's."
        )
    return images, unet, DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=True)


def open_pipeline(name: str) -> DDPMPipeline:
    """A DDPMPipeline by the name of a miniature, its folder, or its id; OSError says why it can't be had."""
    miniatures = [folder.name for folder in checkpoints.MINIATURES.glob("ddpm-*")]
    source = checkpoints.locate(name) if name in miniatures else Path(name).expanduser()
    if not Path(source).exists() and name.count("/") != 1:
        raise OSError(
            f"got --model {name}, which is neither a miniature nor a folder, expected one of "
            f"{', '.join(miniatures)}, a folder, or an id like owner/name: check its name."
        )
    if not Path(source).exists():
        wanted = ("*diffusion_pytorch_model.safetensors",), ("*.json",)
        _, source = downloads.snapshot(f"model {name!r}", (name,), *wanted, "give a miniature or a folder")
    return DDPMPipeline.from_pretrained(str(source), use_safetensors=True)


def main(arguments: list[str] | None = None) -> int:
    """Fine-tune; the exit code is 0, or 2 after a sentence about what stood in the way."""
    return script.run("finetune_model.py", parse(arguments), build)


if __name__ == "__main__":
    sys.exit(main())
