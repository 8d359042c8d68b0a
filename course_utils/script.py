"""What the training scripts share: their options, their folder, their processes, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from course_utils import data, diffusion, profile, runs, train

LEFT_OUT = (
    "output",
    "resume",
    "sample_every",
    "checkpoint_every",
)  # options that don't change what is learned
Load = Callable[[int], data.ImageSet]  # size in pixels -> pictures
Build = Callable[[argparse.Namespace, Load], tuple[data.ImageSet, UNet2DModel, DDPMScheduler]]


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description and the examples as they are."""


def whole_number(text: str) -> int:
    """A number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected 1 or more")
    return number


def add_pictures(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options about what to learn from."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--data", default="butterflies", help="butterflies, flowers, digits, a folder, or the id of a Hub set"
    )
    group.add_argument("--count", type=whole_number, help="use that many pictures; all, if not given")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror at random; not so for digits"
    )
    return group


def add_training(parser: argparse.ArgumentParser, learning_rate: float) -> None:
    """The options about how to learn."""
    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=whole_number, default=1200, help="optimiser steps")
    group.add_argument("--batch-size", type=whole_number, default=32, help="pictures a batch and process")
    group.add_argument("--accumulate", type=whole_number, default=1, help="batches a step")
    group.add_argument("--learning-rate", type=float, default=learning_rate, help="its highest value")
    group.add_argument(
        "--ema-decay", type=float, default=0.995, help="share of the weights' average kept each step"
    )
    group.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), default="auto",
        help="auto: bfloat16 where the processor is fast at it",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of everything random")


def add_writing(parser: argparse.ArgumentParser, output: str) -> None:
    """The options about what is written, and where."""
    group = parser.add_argument_group("what it writes")
    group.add_argument("--output", default=output, help="the folder of this run, new or empty")
    group.add_argument(
        "--sample-every", type=whole_number, default=200, help="steps from one picture to the next"
    )
    group.add_argument(
        "--checkpoint-every", type=whole_number, default=200, help="steps from one to the next"
    )
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")


def run(name: str, options: argparse.Namespace, build: Build) -> int:
    """Train; the exit code is 0, or 2 after a sentence about what stood in the way.

    build(options, load): the pictures, the network and the scheduler; `load(size_px)` reads the pictures that
    the options name.
    """
    # the loop itself chooses the precision; on CPUs, several processes talk through gloo
    accelerator = Accelerator(mixed_precision="no", cpu=profile.device() == "cpu")
    try:
        _train(options, build, accelerator)
    except (ValueError, OSError, FloatingPointError) as error:
        if accelerator.is_main_process:
            print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not profile.out_of_memory(error):
            raise
        print(f"{name}: memory has run out: lower --batch-size ({options.batch_size} now).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command with --resume goes on from the last checkpoint.", file=sys.stderr)
        return 130
    finally:
        accelerator.end_training()
    return 0


def _train(options, build, accelerator):
    """Everything, from the pictures to the finished pipeline."""
    if options.flip is None:
        options.flip = options.data != "digits"
    torch.manual_seed(options.seed)  # the first weights

    def load(size_px):
        with accelerator.local_main_process_first():  # one process downloads, the others find it on the disk
            return data.load(options.data, size_px=size_px, count=options.count)

    images, network, scheduler = build(options, load)
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
    _open_folder(options, settings, accelerator)
    run = train.Run(network.to(accelerator.device), _recipe(options))
    notes = runs.Checkpoints(Path(options.output) / "checkpoints").resume(run)
    if accelerator.is_main_process:
        print(*images.skipped, *notes, sep="\n", end="\n" if images.skipped or notes else "")
        print(f"{images.source}; from step {run.step} to {options.steps}; into {options.output}", flush=True)
    _follow(run, batches, scheduler, options, accelerator)
    if accelerator.is_main_process:
        _save_pipeline(run, scheduler, options, settings, images)
    accelerator.wait_for_everyone()


def _follow(run, batches, scheduler, options, accelerator):
    """All steps; the main process writes down what happens."""
    alpha_bar = scheduler.alphas_cumprod.to(accelerator.device)
    prediction = prediction_of(scheduler)
    steps = train.train(run, batches, train.diffusion_loss(alpha_bar, prediction), accelerator)
    if not accelerator.is_main_process:
        for _ in steps:
            pass
        return
    runs.follow(
        steps,
        run,
        options.output,
        images_per_step=options.batch_size * options.accumulate * accelerator.num_processes,
        checkpoint_every=options.checkpoint_every,
        sample_every=options.sample_every,
        draw=lambda model: _draw(model, alpha_bar, prediction, options.seed),
    )


def prediction_of(scheduler) -> str:
    """What the network of a pipeline with this Diffusers scheduler predicts: "eps", "x0" or "v"."""
    ours = {theirs: name for name, theirs in diffusion.PREDICTIONS.items()}
    return ours[scheduler.config.prediction_type]


def _open_folder(options, settings, accelerator):
    """The main process claims the output folder; all fail together if that can't be."""
    error = [None]
    if accelerator.is_main_process:
        try:
            runs.claim(options.output, settings, options.resume)
        except (ValueError, OSError) as reason:
            error = [str(reason)]
    if broadcast_object_list(error)[0]:
        raise ValueError(error[0])


def _recipe(options):
    return train.Recipe(
        steps=options.steps,
        learning_rate=options.learning_rate,
        ema_decay=options.ema_decay,
        accumulate=options.accumulate,
        precision=options.precision,
        seed=options.seed,
    )


def _draw(model, alpha_bar, prediction, seed):
    """16 pictures, from the same noise every time: (16, C, size, size) in [-1, 1]."""
    shape = (16, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(alpha_bar.device)
    denoise = diffusion.denoiser(model, alpha_bar, prediction)
    return diffusion.last(diffusion.dpm_solver(denoise, noise, alpha_bar, diffusion.spaced_timesteps(20)))


def _save_pipeline(run, scheduler, options, settings, images):
    """The average of the weights as a stock pipeline in pipeline/, with a model card."""
    folder = Path(options.output)
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
    size = images.size_px
    about = f"An unconditional diffusion model of {len(images)} pictures, {size} x {size} pixels."
    with runs.whole_folder(folder / "pipeline") as temporary:
        DDPMPipeline(unet=run.ema, scheduler=scheduler).save_pretrained(temporary)
        card = runs.model_card(f"Diffusion model: {name}", about, facts)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    print(
        f"Saved {folder / 'pipeline'}: loss {sum(last) / len(last):.4f} after {run.seconds / 60:.1f} minutes."
    )
