"""Images per second of training: the course's loop, the plain loop, and those of the peers.

In turns, a few steps each, on the same 32 x 32 pictures in the same batches. The peers train the same network
as the course, and once more their own U-Net of about as many parameters.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file

from benchmarks import peers
from benchmarks.draw import bar_charts
from benchmarks.measure import Bar, flops, medians, turns
from benchmarks.plain import plain_loop, small_unet, wide_unet
from course_utils import data, diffusion, profile, train

BATCH = 64
NETWORKS = {"wide": wide_unet, "small": small_unet}
OWN = " (own U-Net)"
LOSS = train.diffusion_loss(diffusion.cosine_alpha_bar(), "x0")


def measure(quick: bool) -> dict:
    """Both networks; the peers train the small one."""
    return {
        "wide": race("wide", rounds=1 if quick else 8, steps=1 if quick else 3),
        "small": race("small", rounds=2 if quick else 10, steps=2 if quick else 12, with_peers=True),
    }


@dataclass(frozen=True)
class Contestant:
    """turn(n) trains n steps. flops: of one picture, forward and backward."""

    turn: Callable[[int], object]
    parameters: int
    flops: int


def race(
    name: str, *, rounds: int, steps: int, batch: int = BATCH, with_peers: bool = False, images=None
) -> dict:
    """`rounds` turns of `steps` steps for each contestant: images/s (median), ratios, losses, FLOPs.

    Losses are those of the course's and the plain loop's network after as many pictures, on the same unseen
    pictures and noise. peers: "raced", or why they were not.
    """
    torch.manual_seed(0)
    model, images, total = NETWORKS[name](), images or data.butterflies(1000), (rounds + 1) * steps
    contestants, trained = _loops(model, images, batch, total)
    with ExitStack() as stack:
        said = _invite(stack, contestants, model, images, batch) if with_peers else "not asked to"
        work = {who: partial(each.turn, steps) for who, each in contestants.items()}
        seconds = medians(turns(work, rounds))
    losses = {who: evaluate(network) for who, network in trained.items()}
    return {
        "batch": batch,
        "steps": total,
        "parameters": {who: each.parameters for who, each in contestants.items()},
        "flops": {who: each.flops for who, each in contestants.items()},
        "images_per_second": {who: batch * steps / value for who, value in seconds.items()},
        "ratio": {who: value / seconds["course"] for who, value in seconds.items() if who != "course"},
        "loss": losses,
        "loss_ratio": losses["course"] / losses["plain loop"],
        "peers": said,
    }


def _loops(model, images, batch, total):
    """The course's loop and the plain one, as contestants, and the copies of the network that they train."""
    recipe = train.Recipe(steps=total, learning_rate=4e-4, warmup_steps=min(10, total // 2))
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    trained = {"course": copy.deepcopy(model), "plain loop": copy.deepcopy(model).train()}
    plain = {"batch_size": batch, "steps": total, "rate_at": recipe.rate_at}
    running = {
        "course": train.train(train.Run(trained["course"], recipe), data.Batches(images, batch), LOSS),
        "plain loop": plain_loop(trained["plain loop"], images, scheduler, **plain),
    }
    work = flops(lambda: _forward_and_backward(copy.deepcopy(model), images, 2)) // 2
    contestants = {
        who: Contestant(lambda n, loop=loop: list(itertools.islice(loop, n)), _count(model), work)
        for who, loop in running.items()
    }
    return contestants, trained


def _invite(stack: ExitStack, contestants: dict[str, Contestant], model, images, batch) -> str:
    """Add the peers, each with this network from the same weights, and with its own of as many parameters."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    weights = Path(folder, "weights.safetensors")
    save_file(model.state_dict(), weights)
    same = {"config": dict(model.config), "weights": str(weights)}
    for kind, network in {"": same, OWN: {"parameters": _count(model)}}.items():
        for name, title in peers.NAMES.items():
            job = {"peer": name, "network": network, "batch": batch}
            try:
                peer = stack.enter_context(peers.Peer(job, images.images))
            except peers.Unavailable as error:
                print(f"  {error}", flush=True)
                return str(error)
            work = peer.order(flops=2)["flops"] // 2
            contestants[title + kind] = Contestant(
                lambda n, peer=peer: peer.order(train=n), peer.facts["parameters"], work
            )
    return "raced"


def _count(model):
    return sum(p.numel() for p in model.parameters())


def _forward_and_backward(model, images, pictures):
    LOSS(model, data.to_model(images.images[:pictures]), torch.Generator().manual_seed(0)).backward()


@torch.no_grad()
def evaluate(model, pictures: int = 256) -> float:
    """The loss in x0 of 256 unseen pictures with fixed noise, in float32."""
    x0 = data.to_model(data.butterflies(pictures, seed=77).images)
    generator = torch.Generator().manual_seed(5)
    return sum(LOSS(model.eval(), part, generator).item() for part in x0.split(64)) / (pictures // 64)


def bars(result: dict) -> list[Bar]:
    """At least 1.4 times the plain loop on the wide network and 1.2 times each peer, where bf16 is fast."""
    fast = profile.fast_bf16("cpu")
    wide, small = result["wide"], result["small"]
    ratios = {"18.5 M": (wide, 1.4 if fast else 1), "1.8 M": (small, 1)}
    found = [
        Bar(f"images/s over the plain loop, {size}", part["ratio"]["plain loop"], "at least", limit)
        for size, (part, limit) in ratios.items()
    ]
    for name in peers.NAMES.values():
        own, same = (small["ratio"].get(name + kind) for kind in (OWN, ""))
        found.append(Bar(f"images/s over {name}{OWN}", own, "at least", 1.2 if fast else 1))
        found.append(Bar(f"images/s over {name}, same network", same, "at least", 1))
    for name, part in result.items():
        found.append(Bar(f"loss over the plain loop's, {name}", part["loss_ratio"], "at most", 1.02))
    return found


def draw(result: dict):
    """Images per second, one chart for each network."""
    panels = {
        f"{name} U-Net, {part['parameters']['course'] / 1e6:.1f} M": part["images_per_second"]
        for name, part in result.items()
    }
    return bar_charts(panels, "images/s, more is better")
