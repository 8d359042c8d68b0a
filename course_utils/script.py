"""What the training scripts share: their options, their folder, their processes, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from course_utils import data, diffusion, profile, runs, train
from course_utils.messages import tr

LEFT_OUT = (
    "output",
    "resume",
    "sample_every",
    "checkpoint_every",
    "push_to",
)  # options that don't change what is learned
Load = Callable[[int], data.ImageSet]  # size in pixels -> pictures
Build = Callable[[argparse.Namespace, Load], tuple[data.ImageSet, UNet2DModel, DDPMScheduler]]


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description and the examples as they are."""


def whole_number(text: str) -> int:
    """A number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(tr("got {number}, expected 1 or more", number=number))
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


def add_training(parser: argparse.ArgumentParser, **defaults) -> None:
    """The options about how to learn. defaults: of some of them, by name, where others than the usual."""
    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=whole_number, default=1200, help="optimiser steps")
    group.add_argument("--batch-size", type=whole_number, default=32, help="pictures a batch and process")
    group.add_argument("--accumulate", type=whole_number, default=1, help="batches a step")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="its highest value")
    group.add_argument(
        "--ema-decay", type=float, default=0.995, help="share of the weights' average kept each step; 0: none"
    )
    group.add_argument(
        "--precision", choices=train.PRECISIONS, default="auto",
        help="auto: bfloat16 where the processor is fast at it",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.set_defaults(**defaults)


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


class Task(Protocol):
    """A training, as `carry_out` carries it out.

    images: what is learned from. network: what learns. batch_at, loss: see `train.train`.
    """

    images: data.ImageSet
    network: nn.Module
    batch_at: Callable[[int], object]
    loss: train.Loss

    def begin(self, folder: Path, notes: bool) -> None:
        """Prepare what needs the output folder, which is this run's now; `notes`: this process may print."""

    def draw(self, network: nn.Module) -> Tensor:
        """Samples of the network in training, (N, C, H, W) in [-1, 1], of the same noise every time."""

    def finish(self, run: train.Run, folder: Path, settings: Mapping[str, object]) -> str:
        """Write what was trained into the folder; returns a sentence about it."""


def run(name: str, options: argparse.Namespace, build: Build) -> int:
    """Train an unconditional model; the exit code is 0, 2 after a sentence about what stood in the way,
    and 130 if it was interrupted.

    build(options, load): the pictures, the network and the scheduler; `load(size_px)` reads the pictures that
    the options name.
    """
    return carry_out(name, options, lambda accelerator: Unconditional(options, build, accelerator))


def carry_out(name: str, options: argparse.Namespace, task: Callable[[Accelerator], Task]) -> int:
    """Train in the folder that the options name; the exit code is that of `run`.

    It does what the options of `add_training` and `add_writing` say, and goes on where the folder stands.
    """
    # the loop itself chooses the precision; on CPUs, several processes talk through gloo
    accelerator = Accelerator(mixed_precision="no", cpu=profile.device() == "cpu")
    try:
        _train(options, task, accelerator)
    except (ValueError, OSError, FloatingPointError) as error:
        if accelerator.is_main_process:
            print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not profile.out_of_memory(error):
            raise
        told = tr("memory has run out: lower --batch-size ({now} now).", now=options.batch_size)
        print(f"{name}: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            tr("Stopped. The same command with --resume goes on from the last checkpoint."), file=sys.stderr
        )
        return 130
    finally:
        accelerator.end_training()
    return 0


def _train(options, make, accelerator):
    """Everything, from the pictures to what is finished."""
    torch.manual_seed(options.seed)  # the first weights
    task, folder = make(accelerator), Path(options.output)
    settings = {name: value for name, value in vars(options).items() if name not in LEFT_OUT}
    settings |= {"pictures": len(task.images), "processes": accelerator.num_processes}
    _open_folder(options, settings, accelerator)
    task.begin(folder, accelerator.is_main_process)
    run = train.Run(task.network.to(accelerator.device), _recipe(options))
    notes = runs.Checkpoints(folder / "checkpoints").resume(run)
    if accelerator.is_main_process:
        skipped = task.images.skipped
        print(*skipped, *notes, sep="\n", end="\n" if skipped or notes else "")
        print(
            tr(
                "{source}; from step {step} to {last}; into {folder}",
                source=task.images.source,
                step=run.step,
                last=options.steps,
                folder=folder,
            ),
            flush=True,
        )
    _follow(run, task, options, accelerator)
    if accelerator.is_main_process:
        print(task.finish(run, folder, settings))
    accelerator.wait_for_everyone()


def _follow(run, task, options, accelerator):
    """All steps; the main process writes down what happens."""
    steps = train.train(run, task.batch_at, task.loss, accelerator)
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
        draw=task.draw,
    )


class Unconditional:
    """The `Task` of a model that draws pictures like those that the options name."""

    def __init__(self, options: argparse.Namespace, build: Build, accelerator: Accelerator):
        if options.flip is None:
            options.flip = options.data != "digits"

        def load(size_px):
            with (
                accelerator.local_main_process_first()
            ):  # one process downloads, the others find it on the disk
                return data.load(options.data, size_px=size_px, count=options.count)

        self.options, (self.images, self.network, self.scheduler) = options, build(options, load)
        self.batch_at = data.Batches(
            self.images,
            options.batch_size,
            seed=options.seed,
            flip=options.flip,
            device=accelerator.device,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.alpha_bar = self.scheduler.alphas_cumprod.to(accelerator.device)
        self.prediction = diffusion.prediction_of(self.scheduler)
        self.loss = train.diffusion_loss(self.alpha_bar, self.prediction)

    def begin(self, folder, notes):
        """Nothing is left to prepare."""

    def draw(self, network):
        """16 pictures."""
        shape = (16, network.config.in_channels, network.config.sample_size, network.config.sample_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.options.seed))
        denoise = diffusion.denoiser(network, self.alpha_bar, self.prediction)
        steps = diffusion.spaced_timesteps(20, len(self.alpha_bar))
        return diffusion.last(
            diffusion.dpm_solver(denoise, noise.to(self.alpha_bar.device), self.alpha_bar, steps)
        )

    def finish(self, run, folder, settings):
        """The average of the weights as a stock pipeline in pipeline/, with a model card."""
        source = self.options.data
        name = Path(source).name if Path(source).exists() else source  # no paths of this machine
        last = list(runs.read_losses(folder / "loss.jsonl").values())[-100:]
        loss = f"{sum(last) / len(last):.4f}"
        chosen = {**settings, "data": name}
        facts = {key.replace("_", " "): value for key, value in chosen.items() if value is not None} | {
            "parameters": f"{sum(p.numel() for p in run.ema.parameters()):,}",
            "minutes of training": f"{run.seconds / 60:.1f} ({run.device.type})",
            f"loss, mean of the last {len(last)} steps": loss,
        }
        size = self.images.size_px
        about = f"An unconditional diffusion model of {len(self.images)} pictures, {size} x {size} pixels."
        with runs.whole_folder(folder / "pipeline") as temporary:
            DDPMPipeline(unet=run.ema, scheduler=self.scheduler).save_pretrained(temporary)
            card = runs.model_card(f"Diffusion model: {name}", about, facts)
            (temporary / "README.md").write_text(card, encoding="utf-8")
        return tr(
            "Saved {place}: loss {loss} after {minutes:.1f} minutes.",
            place=folder / "pipeline",
            loss=loss,
            minutes=run.seconds / 60,
        )


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
        adam_bits=getattr(options, "adam_bits", 32),
        seed=options.seed,
    )
