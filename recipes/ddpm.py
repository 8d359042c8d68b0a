"""Train `ddpm-butterflies`, the pipeline that opens notebook 01, and `ddpm-flowers`, from which Unit 2
fine-tunes, with Unit 1's own script, and score them: 20 minutes each on 2 CPU cores."""

from __future__ import annotations

import subprocess
import sys

import torch
from diffusers import DDIMScheduler, DDPMPipeline

from course_utils import checkpoints, data, diffusion, runs, scores
from recipes import common

SETTINGS = ["--count", "8000", "--steps", "6000", "--ema-decay", "0.999"]
NAMES = {  # miniature -> the script's --data, what draws them, and the judge
    "ddpm-butterflies": ("butterflies", data.butterflies, "judge-butterflies"),
    "ddpm-flowers": ("flowers", data.flowers, "judge-scenes"),
}


def build() -> None:
    """Train both."""
    for name in NAMES:
        make(name)


def make(name: str) -> None:
    """Train one, or go on with it, score it, and save it with its card."""
    data_name, draw, judge = NAMES[name]
    run = common.RUNS / name
    command = [sys.executable, "unit1/train_unconditional.py", "--data", data_name, *SETTINGS]
    subprocess.run([*command, "--output", str(run), *["--resume"] * (run / "run.json").exists()], check=True)
    unet = DDPMPipeline.from_pretrained(run / "pipeline").unet
    numbers = score(unet, draw, scores.load_judge(judge))
    for title, value in numbers.items():
        print(f"{title:<44}{value}")
    save(name, unet, numbers)


@torch.no_grad()
def score(unet, draw, judge) -> dict[str, str]:
    """Fréchet distance, diversity and copies of 1,000 samples in 20 steps of DPM-Solver++."""
    alpha_bar = diffusion.cosine_alpha_bar()
    noise = torch.randn((1000, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    denoise, ts = diffusion.denoiser(unet.eval(), alpha_bar, "x0"), diffusion.spaced_timesteps(20)
    samples = torch.cat(
        [diffusion.last(diffusion.dpm_solver(denoise, x, alpha_bar, ts)) for x in noise.split(100)]
    )
    sets = draw(8000), draw(1000, seed=common.TEST_SEED), draw(1000, seed=common.TEST_SEED + 1)
    seen, unseen, more = (data.to_model(images.images) for images in sets)
    generated, real, other = (scores.features(judge, x) for x in (samples, unseen, more))
    return {
        "Fréchet distance to unseen drawings": f"{scores.frechet_distance(generated, real):.1f} "
        f"(of other drawings: {scores.frechet_distance(other, real):.1f})",
        "diversity": f"{scores.diversity(samples):.3f} (of drawings: {scores.diversity(unseen):.3f})",
        "distance to the nearest training picture": f"{scores.nearest(samples, seen)[0].mean():.3f} "
        f"(of unseen drawings: {scores.nearest(unseen, seen)[0].mean():.3f})",
    }


def save(name: str, unet, numbers: dict[str, str]) -> None:
    """The pipeline in half precision, with a scheduler that needs 40 steps, and a model card."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing"
    )
    kind = NAMES[name][0]
    about = (
        f"32 x 32 pixels; drawn {kind}. Made by `python -m recipes ddpm` of the course, from "
        f"nothing but its own drawings. It shows what a pipeline is, and has never seen real {kind}."
    )
    trained = f"`train_unconditional.py --data {kind} {' '.join(SETTINGS)}`"
    facts = {"trained with": trained, **numbers, "licence": "Apache-2.0"}
    with runs.whole_folder(common.folder(name)) as folder:
        DDPMPipeline(unet=unet.half(), scheduler=scheduler).save_pretrained(folder)
        (folder / "README.md").write_text(runs.model_card(name, about, facts), encoding="utf-8")
    checkpoints.note_checksums()
