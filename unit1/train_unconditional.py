"""Train an unconditional diffusion model on a set of pictures, as notebook 01 does, for longer and with care.

Give it drawn butterflies, handwritten digits, a folder of your own pictures, or the id of a set on the Hub.
It writes everything into one folder: loss.jsonl, pictures in samples/, TensorBoard logs in logs/,
checkpoints, and at the end pipeline/, which `DDPMPipeline.from_pretrained` opens. Stopped at any moment, it
goes on with --resume as if nothing had happened.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from course_utils import data, diffusion, profile, runs, train

SCHEDULES = {
    "cosine": ("squaredcos_cap_v2", diffusion.cosine_alpha_bar),
    "linear": ("linear", diffusion.linear_alpha_bar),
}
LEFT_OUT = (
    "output",
    "resume",
    "sample_every",
    "checkpoint_every",
)  # options that don't change what is learned
EXAMPLES = """examples:
  python unit1/train_unconditional.py --output runs/butterflies
  python unit1/train_unconditional.py --data ~/pictures/cats --size 64 --steps 5000 --output runs/cats
  python unit1/train_unconditional.py --output runs/butterflies --resume
  tensorboard --logdir runs
several processes (on GPUs, or on the cores of a CPU; --multi_gpu is what makes accelerate start them):
  accelerate launch --multi_gpu --num_processes 2 unit1/train_unconditional.py --output runs/two_processes
"""


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description and the examples as they are."""


def whole_number(text: str) -> int:
    """A number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=Help)

    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--data", default="butterflies", help="butterflies, flowers, digits, a folder, or the id of a Hub set"
    )
    group.add_argument("--count", type=whole_number, help="use that many pictures; all, if not given")
    group.add_argument("--size", type=whole_number, default=32, help="width and height in pixels")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror at random; not so for digits"
    )

    group = parser.add_argument_group("network and diffusion")
    group.add_argument(
        "--channels", type=whole_number, nargs="+", default=[16, 32, 64, 96], metavar="C",
        help="of the U-Net, one number a level, multiples of 8; each level halves the size",
    )  # fmt: skip
    group.add_argument(
        "--prediction", choices=diffusion.PREDICTIONS, default="x0", help="what the network predicts"
    )
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="how noise is added")

    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=whole_number, default=1200, help="optimiser steps")
    group.add_argument("--batch-size", type=whole_number, default=32, help="pictures a batch and process")
    group.add_argument("--accumulate", type=whole_number, default=1, help="batches a step")
    group.add_argument("--learning-rate", type=float, default=3e-3, help="its highest value")
    group.add_argument(
        "--ema-decay", type=float, default=0.995, help="share of the weights' average kept each step"
    )
    group.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), default="auto",
        help="auto: bfloat16 where the processor is fast at it",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of everything random")

    group = parser.add_argument_group("what it writes")
    group.add_argument("--output", default="runs/unconditional", help="the folder of this run, new or empty")
    group.add_argument(
        "--sample-every", type=whole_number, default=200, help="steps from one picture to the next"
    )
    group.add_argument(
        "--checkpoint-every", type=whole_number, default=200, help="steps from one to the next"
    )
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train; the exit code is 0, or 2 after a sentence about what stood in the way."""
    options = parse(arguments)
    # the loop itself chooses the precision; on CPUs, several processes talk through gloo
    accelerator = Accelerator(mixed_precision="no", cpu=profile.device() == "cpu")
    try:
        train_model(options, accelerator)
    except (ValueError, OSError, FloatingPointError) as error:
        if accelerator.is_main_process:
            print(f"train_unconditional.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command with --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    finally:
        accelerator.end_training()
    return 0


def train_model(options: argparse.Namespace, accelerator: Accelerator) -> None:
    """Everything, from the pictures to the finished pipeline."""
    if options.flip is None:
        options.flip = options.data != "digits"
    require_size(options.size, options.channels)
    with accelerator.local_main_process_first():  # one process downloads, the others find it on the disk
        images = data.load(options.data, size_px=options.size, count=options.count)
    batches = data.Batches(
        images,
        options.batch_size,
        seed=options.seed,
        flip=options.flip,
        device=accelerator.device,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    settings = {name: value for name, value in vars(options).items() if name not in LEFT_OUT}
    settings |= {"pictures": len(images), "processes": accelerator.num_processes}
    open_folder(options, settings, accelerator)

    torch.manual_seed(options.seed)  # the first weights
    run = train.Run(network(options, images).to(accelerator.device), recipe(options))
    notes = runs.Checkpoints(Path(options.output) / "checkpoints").resume(run)
    if accelerator.is_main_process:
        print(*images.skipped, *notes, sep="\n", end="\n" if images.skipped or notes else "")
        print(f"{images.source}; from step {run.step} to {options.steps}; into {options.output}", flush=True)

    _, alpha_bar = SCHEDULES[options.schedule]
    alpha_bar = alpha_bar().to(accelerator.device)
    steps = train.train(run, batches, train.diffusion_loss(alpha_bar, options.prediction), accelerator)
    if accelerator.is_main_process:
        runs.follow(
            steps,
            run,
            options.output,
            images_per_step=options.batch_size * options.accumulate * accelerator.num_processes,
            checkpoint_every=options.checkpoint_every,
            sample_every=options.sample_every,
            draw=lambda model: draw(model, alpha_bar, options, images),
        )
        save_pipeline(run, options, settings, images)
    else:
        for _ in steps:
            pass
    accelerator.wait_for_everyone()


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


def open_folder(options: argparse.Namespace, settings: dict, accelerator: Accelerator) -> None:
    """The main process claims the output folder; all fail together if that can't be."""
    error = [None]
    if accelerator.is_main_process:
        try:
            runs.claim(options.output, settings, options.resume)
        except (ValueError, OSError) as reason:
            error = [str(reason)]
    if broadcast_object_list(error)[0]:
        raise ValueError(error[0])


def network(options: argparse.Namespace, images: data.ImageSet) -> UNet2DModel:
    """A U-Net with attention at its lowest level alone: there it is cheap, and sees the whole picture."""
    plain, colours = len(options.channels) - 1, images.images.shape[1]
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


def recipe(options: argparse.Namespace) -> train.Recipe:
    """The part of the options that the training loop needs."""
    return train.Recipe(
        steps=options.steps,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        accumulate=options.accumulate,
        precision=options.precision,
        seed=options.seed,
    )


def draw(model, alpha_bar, options, images) -> torch.Tensor:
    """16 pictures, from the same noise every time: (16, C, size, size) in [-1, 1]."""
    shape = (16, images.images.shape[1], options.size, options.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed)).to(alpha_bar.device)
    denoise = diffusion.denoiser(model, alpha_bar, options.prediction)
    return diffusion.last(diffusion.dpm_solver(denoise, noise, alpha_bar, diffusion.spaced_timesteps(20)))


def save_pipeline(run: train.Run, options, settings: dict, images: data.ImageSet) -> None:
    """The average of the weights as a stock pipeline in pipeline/, with a model card."""
    folder = Path(options.output)
    scheduler = DDPMScheduler(
        beta_schedule=SCHEDULES[options.schedule][0],
        prediction_type=diffusion.PREDICTIONS[options.prediction],
        timestep_spacing="trailing",
    )
    last = list(runs.read_losses(folder / "loss.jsonl").values())[-100:]
    name = (
        Path(options.data).name if Path(options.data).exists() else options.data
    )  # no paths of this machine
    chosen = {**settings, "data": name}
    facts = {key.replace("_", " "): value for key, value in chosen.items() if value is not None} | {
        "parameters": f"{sum(p.numel() for p in run.ema.parameters()):,}",
        "minutes of training": f"{run.seconds / 60:.1f} ({run.device.type})",
        f"loss, mean of the last {len(last)} steps": f"{sum(last) / len(last):.4f}",
    }
    about = (
        f"An unconditional diffusion model of {len(images)} pictures, {options.size} x {options.size} pixels."
    )
    with runs.whole_folder(folder / "pipeline") as temporary:
        DDPMPipeline(unet=run.ema, scheduler=scheduler).save_pretrained(temporary)
        card = runs.model_card(f"Diffusion model: {name}", about, facts)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    print(
        f"Saved {folder / 'pipeline'}: loss {sum(last) / len(last):.4f} after {run.seconds / 60:.1f} minutes."
    )


if __name__ == "__main__":
    sys.exit(main())
