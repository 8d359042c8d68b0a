"""Train an unconditional diffusion model on a set of pictures, as notebook 01 does, for longer and with care.

Give it drawn butterflies, handwritten digits, a folder of your own pictures, or the id of a set on the Hub.
It writes everything into one folder: loss.jsonl, pictures in samples/, TensorBoard logs in logs/,
checkpoints, and at the end pipeline/, which `DDPMPipeline.from_pretrained` opens. Stopped at any moment, it
goes on with --resume as if nothing had happened.
"""

from __future__ import annotations

import argparse
import sys

from diffusers import DDPMScheduler, UNet2DModel

from course_utils import data, diffusion, script
from course_utils.script import whole_number

SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
EXAMPLES = """examples:
  python unit1/train_unconditional.py --output runs/butterflies
  python unit1/train_unconditional.py --data ~/pictures/cats --size 64 --steps 5000 --output runs/cats
  python unit1/train_unconditional.py --output runs/butterflies --resume
  tensorboard --logdir runs
several processes (on GPUs, or on the cores of a CPU; --multi_gpu is what makes accelerate start them):
  accelerate launch --multi_gpu --num_processes 2 unit1/train_unconditional.py --output runs/two_processes
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=script.Help)
    group = script.add_pictures(parser)
    group.add_argument("--size", type=whole_number, default=32, help="width and height in pixels")

    group = parser.add_argument_group("network and diffusion")
    group.add_argument(
        "--channels", type=whole_number, nargs="+", default=[16, 32, 64, 96], metavar="C",
        help="of the U-Net, one number a level, multiples of 8; each level halves the size",
    )  # fmt: skip
    group.add_argument(
        "--prediction", choices=diffusion.PREDICTIONS, default="x0", help="what the network predicts"
    )
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="how noise is added")

    script.add_training(parser, learning_rate=3e-3)
    script.add_writing(parser, output="runs/unconditional")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, load: script.Load):
    """The pictures, an untrained network, and the scheduler."""
    require_size(options.size, options.channels)
    images = load(options.size)
    scheduler = DDPMScheduler(
        beta_schedule=SCHEDULES[options.schedule],
        prediction_type=diffusion.PREDICTIONS[options.prediction],
        timestep_spacing="trailing",
    )
    return images, network(options, images), scheduler


def require_size(size: int, channels: list[int]) -> None:
    """The size must stay whole in every halving of the U-Net, and GroupNorm wants channels in eights."""
    whole = 2 ** (len(channels) - 1)
    if size % whole:
        near = max(1, round(size / whole)) * whole
        raise ValueError(
            f"got --size {size} with {len(channels)} --channels, which halve it {len(channels) - 1} times, "
            f"expected a multiple of {whole}: give --size {near}, or fewer channels."
        )
    if any(c % 8 for c in channels):
        raise ValueError(f"got --channels {channels}, expected multiples of 8: change those that are not.")


def network(options: argparse.Namespace, images: data.ImageSet) -> UNet2DModel:
    """A U-Net with attention at its lowest level alone: there it is cheap, and sees the whole picture."""
    plain, colours = len(options.channels) - 1, images.shape[1]
    return UNet2DModel(
        sample_size=options.size,
        in_channels=colours,
        out_channels=colours,
        layers_per_block=1,
        block_out_channels=tuple(options.channels),
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        norm_num_groups=8,
    )


def main(arguments: list[str] | None = None) -> int:
    """Train; the exit code is 0, or 2 after a sentence about what stood in the way."""
    return script.run("train_unconditional.py", parse(arguments), build)


if __name__ == "__main__":
    sys.exit(main())
