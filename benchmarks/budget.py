"""What the same CPU minutes buy, from nothing: the course's recipe, published ones, and the peers'.

Each has its own network, settings and sampler; all see the same 1,000 drawn butterflies. CPU seconds of
training count, those of loading libraries, of sampling and of scoring don't.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from benchmarks import peers
from benchmarks.draw import bar_charts
from benchmarks.measure import Bar, CpuClock
from benchmarks.plain import example_rate, example_unet, plain_loop, small_unet, wide_unet
from course_utils import data, diffusion, profile, scores, train

UNSEEN = 1000  # drawings that samples are compared with
TRIAL = 20  # steps that show the course how many the budget allows; they are part of it
PUBLISHED, EXAMPLE = "published recipe (18.5 M)", "Diffusers' example (114 M)"


def measure(quick: bool) -> dict:
    """Budgets of 2 and 8 CPU minutes; if `quick`, of 3 and 6 seconds, with the others' networks small."""
    if quick:
        return compare((3, 6), 72, calls=10, others=small_unet)
    return compare((120, 480), 512)


def compare(budgets: tuple[float, ...], count: int, calls: int = 50, others=None, images=None) -> dict:
    """Score `count` samples of each contestant at each budget.

    calls: of the network, for a sample; the peers have samplers of their own. others: makes the network of
    all others, in place of their own. The others train in one go and are scored on the way, since their
    learning rate doesn't ask how long it will take; the course's does.
    """
    images = images or data.butterflies(1000)
    score, wanted = Score(count), (count, calls)
    rows = {str(budget): {"course": score(*course(images, budget, wanted))} for budget in budgets}
    published = {"rate_at": lambda _: 4e-4, "batch_size": 64, "adam": {}, "max_norm": None}
    example = {"rate_at": example_rate(len(images))}
    for name, make, settings in ((PUBLISHED, wide_unet, published), (EXAMPLE, example_unet, example)):
        samples = plain(others or make, images, budgets, wanted, settings)
        for budget, made in zip(budgets, samples, strict=True):
            rows[str(budget)][name] = score(*made)
    said = "raced"
    try:
        parameters = sum(p.numel() for p in others().parameters()) if others else None
        for key, name in peers.NAMES.items():
            for budget, made in zip(budgets, peer(key, images, budgets, count, parameters), strict=True):
                rows[str(budget)][name] = score(*made)
    except peers.Unavailable as error:
        said = str(error)
        print(f"  {said}", flush=True)
    return {"samples": count, "cpu_seconds": rows, "peers": said}


Made = tuple[Tensor, int, float]  # samples in [-1, 1], steps of training, their CPU seconds


def course(images: data.ImageSet, budget: float, wanted: tuple[int, int]) -> Made:
    """The course's recipe of Unit 1, with as many steps as the budget allows; wanted: as in `sample`."""
    torch.manual_seed(0)
    clock, model = CpuClock(), small_unet()
    alpha_bar, batches = diffusion.cosine_alpha_bar(), data.Batches(images, 32)
    loss = train.diffusion_loss(alpha_bar, "x0")
    trial = train.Run(copy.deepcopy(model), train.Recipe(steps=TRIAL))
    for _ in train.train(trial, batches, loss):
        pass
    steps = max(1, int(TRIAL * (budget / clock() - 1)))
    run = train.Run(model, train.Recipe(steps=steps))
    for _ in train.train(run, batches, loss):
        if clock() >= budget:
            break
    spent = clock()
    return sample(run.ema, alpha_bar, "x0", *wanted), run.step, spent


def plain(make, images, budgets, wanted, settings) -> Iterator[Made]:
    """The plain loop on the network that `make` gives: linear betas, eps."""
    torch.manual_seed(0)
    model, scheduler = make(), DDPMScheduler(beta_schedule="linear")
    loop = plain_loop(model.train(), images, scheduler, steps=10**9, **settings)
    spent, steps = 0.0, 0
    for budget in budgets:
        clock = CpuClock()
        while spent + clock() < budget:
            next(loop)
            steps += 1
        spent += clock()
        yield sample(model, scheduler.alphas_cumprod, "eps", *wanted), steps, spent


def peer(name, images, budgets, count, parameters) -> Iterator[Made]:
    """A peer from the registry, with its own network, or its own of about so many parameters."""
    network = {"parameters": parameters} if parameters else {}
    job = {"peer": name, "network": network, "bf16": profile.fast_bf16("cpu")}
    steps = 0
    with peers.Peer(job, images.images) as running:
        for budget in budgets:
            answer = running.order(train_until=budget)
            steps += answer["steps"]
            yield running.sample(count), steps, answer["cpu_seconds"]


def sample(model, alpha_bar: Tensor, prediction: str, count: int, calls: int = 50) -> Tensor:
    """`count` samples by DDIM, in [-1, 1]; 50 calls of the network are the default of Diffusers' pipeline."""
    noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    denoise, ts = diffusion.denoiser(model, alpha_bar, prediction), diffusion.spaced_timesteps(calls)
    was_training = model.training
    model.eval()
    with train.autocast(torch.device("cpu"), "auto"):
        samples = [diffusion.last(diffusion.ddim(denoise, x, alpha_bar, ts)) for x in noise.split(64)]
    model.train(was_training)
    return torch.cat(samples).float()


class Score:
    """How good samples are, against drawings that nobody trained on."""

    def __init__(self, count: int):
        self.judge = scores.load_judge("judge-butterflies")
        real = data.to_model(data.butterflies(UNSEEN, seed=77).images)
        self.real, self.count = scores.features(self.judge, real), count

    def frechet(self, samples: Tensor) -> float:
        """Their Fréchet distance."""
        return scores.frechet_distance(scores.features(self.judge, samples.clamp(-1, 1)), self.real)

    def __call__(self, samples: Tensor, steps: int, cpu_seconds: float) -> dict:
        """Fréchet distance, nearest-neighbour score, and what they cost."""
        seen = scores.features(self.judge, samples.clamp(-1, 1))
        return {
            "frechet": self.frechet(samples),
            "nearest_neighbour": nearest_neighbour_score(seen, self.real[: self.count]),
            "steps": steps,
            "cpu_seconds": cpu_seconds,
        }


def nearest_neighbour_score(a: Tensor, b: Tensor) -> float:
    """How often the nearest neighbour of a row of a or b, (N, D) each, is one of its own kind: 0.5 is best.

    The accuracy of a one-nearest-neighbour classifier, each row left out in its turn (Lopez-Paz & Oquab
    2017, section 3): near 0.5 if a and b can't be told apart, 1 if they always can, and below 0.5 if the one
    copies the other.
    """
    both = torch.cat([a, b]).double()
    kind = torch.arange(len(both)) < len(a)
    distance = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.fill_diagonal_(torch.inf).argmin(1)
    return (kind[nearest] == kind).float().mean().item()


def bars(result: dict) -> list[Bar]:
    """Better than each other one at every budget, in both scores."""
    found = []
    for budget, rows in result["cpu_seconds"].items():
        ours = rows["course"]
        for name in (PUBLISHED, EXAMPLE, *peers.NAMES.values()):
            theirs = rows.get(name)
            ratio = theirs and ours["frechet"] / theirs["frechet"]
            found.append(Bar(f"{budget} CPU s: Fréchet distance over that of {name}", ratio, "below", 1))
            gap = theirs and abs(ours["nearest_neighbour"] - 0.5) - abs(theirs["nearest_neighbour"] - 0.5)
            found.append(Bar(f"{budget} CPU s: farther from 0.5 (1-NN) than {name}", gap, "below", 0))
    return found


def draw(result: dict):
    """Fréchet distances, one chart for each budget."""
    panels = {
        f"after {budget} CPU seconds": {name: row["frechet"] for name, row in rows.items()}
        for budget, rows in result["cpu_seconds"].items()
    }
    return bar_charts(panels, "Fréchet distance, less is better")
