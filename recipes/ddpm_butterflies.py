"""Train `ddpm-butterflies`, the pipeline that opens notebook 01, with Unit 1's own script, and score it.

python -m recipes.ddpm_butterflies          about 15 minutes on 2 CPU cores; goes on where it was stopped
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMPipeline

from course_utils import checkpoints, data, diffusion, scores, train

RUN = Path("runs/ddpm-butterflies")
SETTINGS = ["--data", "butterflies", "--count", "8000", "--steps", "6000", "--ema-decay", "0.999"]
UNSEEN_SEED = 77  # the script draws with seed 0, the judge was trained on seed 1001


def main() -> None:
    command = [sys.executable, "unit1/train_unconditional.py", *SETTINGS, "--output", str(RUN)]
    subprocess.run([*command, *["--resume"] * (RUN / "run.json").exists()], check=True)
    unet = DDPMPipeline.from_pretrained(RUN / "pipeline").unet
    numbers = score(unet)
    for name, value in numbers.items():
        print(f"{name:<40}{value}")
    save(unet, numbers)


@torch.no_grad()
def score(unet) -> dict[str, str]:
    """Fréchet distance, diversity and copies of 1,000 samples in 20 steps of DPM-Solver++."""
    alpha_bar, judge = diffusion.cosine_alpha_bar(), scores.load_judge("judge-butterflies")
    noise = torch.randn((1000, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    denoise, ts = diffusion.denoiser(unet.eval(), alpha_bar, "x0"), diffusion.spaced_timesteps(20)
    samples = torch.cat(
        [diffusion.last(diffusion.dpm_solver(denoise, x, alpha_bar, ts)) for x in noise.split(100)]
    )
    seen, unseen = data.butterflies(8000), data.butterflies(1000, seed=UNSEEN_SEED)
    seen, unseen, more = (
        data.to_model(x.images) for x in (seen, unseen, data.butterflies(1000, seed=UNSEEN_SEED + 1))
    )
    features = [scores.features(judge, x) for x in (samples, unseen, more)]
    return {
        "Fréchet distance to unseen drawings": f"{scores.frechet_distance(features[0], features[1]):.1f} "
        f"(of other drawings: {scores.frechet_distance(features[2], features[1]):.1f})",
        "diversity": f"{scores.diversity(samples):.3f} (of drawings: {scores.diversity(unseen):.3f})",
        "distance to the nearest training picture": f"{scores.nearest(samples, seen)[0].mean():.3f} "
        f"(of unseen drawings: {scores.nearest(unseen, seen)[0].mean():.3f})",
    }


def save(unet, numbers: dict[str, str]) -> None:
    """The pipeline in half precision, with a scheduler that needs 40 steps, and a model card."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", timestep_spacing="trailing"
    )
    about = (
        "32 x 32 pixels; drawn butterflies. Made by `python -m recipes.ddpm_butterflies` of the course, from "
        "nothing but its own drawings. It shows what a pipeline is, and has never seen a real butterfly."
    )
    facts = {
        "trained with": f"`train_unconditional.py {' '.join(SETTINGS)}`",
        **numbers,
        "licence": "Apache-2.0",
    }
    with train.whole_folder(checkpoints.MINIATURES / "ddpm-butterflies") as folder:
        DDPMPipeline(unet=unet.half(), scheduler=scheduler).save_pretrained(folder)
        (folder / "README.md").write_text(
            train.model_card("ddpm-butterflies", about, facts), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
