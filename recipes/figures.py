"""Draw the figures of the READMEs from the course's own models.

python -m recipes.figures                                   all (or: make figures), a minute on 2 CPU cores
python -m recipes.figures unit3/figures/conditioning.png    some of them
"""

from __future__ import annotations

import argparse
import textwrap
from functools import cache
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DiffusionPipeline
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from course_utils import checkpoints, data, diffusion, guidance, latent, runs, scores, show
from course_utils.explore import warp
from recipes import diagrams, score

PROMPT = "a drawing of a red fish on a beach"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.figures", description=__doc__.split("\n\n")[0])
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, []], help="which (default: all)")
    for path in parser.parse_args().figures or FIGURES:
        drawn = FIGURES[path]()
        picture = drawn.gif if isinstance(drawn, show.Animation) else drawn.png()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with runs.whole_file(path) as file:
            file.write_bytes(picture)
        print(f"{path}: {len(picture) / 1e6:.2f} MB")


# Unit 1


@cache
def butterflies():
    """The U-Net that draws butterflies."""
    return DDPMPipeline.from_pretrained(checkpoints.verified("ddpm-butterflies")).unet.eval()


def walk(count: int, steps: int, seed: int) -> list[diffusion.Step]:
    """`count` pictures from noise by DDIM: every (t, xt, x0_hat), and the result as a last xt."""
    alpha_bar = diffusion.cosine_alpha_bar()
    noise = torch.randn((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    denoise = diffusion.denoiser(butterflies(), alpha_bar, "x0")
    steps = list(diffusion.ddim(denoise, noise, alpha_bar, diffusion.spaced_timesteps(steps)))
    return [*steps, (0, steps[-1][2], steps[-1][2])]


def noise_to_butterflies() -> show.Animation:
    """The moving picture of the top README: 16 samples, noise at first, butterflies at last."""
    frames = [xt for _, xt, _ in walk(count=16, steps=24, seed=5)]
    return show.animation(
        frames, columns=8, seconds=4, scale=2, alt="16 squares of noise turn into 16 butterflies"
    )


def chain() -> show.Picture:
    """To the right, a drawing sinks into noise; to the left, a sample rises from it."""
    alpha_bar = diffusion.cosine_alpha_bar()
    x0 = data.to_model(data.butterflies(1, seed=9).images)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
    backward = walk(count=1, steps=40, seed=12)[::-1]
    columns = []
    for t, place in ((0, 0), (199, 8), (399, 16), (599, 24), (799, 32), (999, 40)):
        forward = x0 if t == 0 else diffusion.add_noise(x0, eps, torch.tensor([t]), alpha_bar)
        columns.append((f"t = {t}", torch.cat([forward, backward[place][1]])))
    alt = "Above, a drawn butterfly sinks into noise from left to right; below, the model's own rises from it"
    return show.strip(columns, ["add noise →", "← denoise"], alt=alt)


def many_small_steps() -> show.Picture:
    """The same noise, denoised in 1, 2, 5, 10 and 40 steps."""
    rows = {f"{n} step{'s' * (n > 1)}": walk(count=8, steps=n, seed=12)[-1][1] for n in (1, 2, 5, 10, 40)}
    alt = "Eight samples in five rows: one step gives blurs, 5 steps rough butterflies, 40 steps clear ones"
    return show.rows(rows, columns=8, width=5.5, alt=alt)


# Unit 2


def guided_moons() -> show.Picture:
    """Samples of two moons, of which the upper one is asked for, at three guidance scales."""
    clouds = {scale: warp.cloud("upper", scale, 0) for scale in (1, 3, 8)}
    told = [f"scale {scale}: {cloud.spread:.2f} times as wide as the moon" for scale, cloud in clouds.items()]
    alt = f"Samples on the upper one of two half circles. {'; '.join(told)}"
    figure, moons = show.Picture(9, 1.9, alt), warp.two_moons(120)
    for ax, words, cloud in zip(figure.subplots(1, 3), told, clouds.values(), strict=True):
        ax.plot(*cloud.ends.T, "o", color=show.COLOURS[1], ms=6, mew=0)
        ax.plot(*moons[::2].T, "D", color="black", ms=2.5, mew=0)
        ax.plot(*moons[1::2].T, "D", color="0.7", ms=2.5, mew=0)
        ax.set(aspect="equal", xticks=[], yticks=[])
        ax.set_title(words, fontsize=9, loc="left")
    return figure


# Unit 3


@cache
def pipeline(name: str = "sd"):
    """A miniature of Stable Diffusion, at mini scale whatever the machine."""
    loaded = DiffusionPipeline.from_pretrained(checkpoints.verified(name), use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@torch.no_grad()
def latents(prompts: list[str], scale: float, seed: int = 1) -> torch.Tensor:
    """Guided latents of prompts, by DDIM in 25 steps; scale 0 leaves the prompts out: (N, 4, 8, 8)."""
    sd = pipeline()
    alpha_bar = sd.scheduler.alphas_cumprod
    told = (latent.denoiser(sd, latent.read(sd, texts)) for texts in (prompts, [""] * len(prompts)))
    noise = torch.randn((len(prompts), 4, 8, 8), generator=torch.Generator().manual_seed(seed))
    steps = diffusion.ddim(
        guidance.classifier_free(*told, scale), noise, alpha_bar, diffusion.spaced_timesteps(25)
    )
    return diffusion.last(steps)


def draw(prompts: list[str], scale: float = 7.5, seed: int = 1) -> torch.Tensor:
    """Pictures of prompts: (N, 3, 64, 64) in [-1, 1]."""
    with torch.no_grad():
        return latent.decode(pipeline().vae, latents(prompts, scale, seed))


def samples() -> show.Picture:
    """Twelve pictures of prompts that nobody chose, of combinations that it has never seen."""
    texts, _ = score.prompts(12, "held out", seed=3)
    x = draw(texts)
    columns = [("", torch.stack([x[i], x[i + 6]])) for i in range(6)]
    below = [f"above: {texts[i]};\nbelow: {texts[i + 6]}" for i in range(6)]
    below = ["\n".join(textwrap.wrap(text, 17)) for text in below]
    alt = "Twelve pictures by the course's miniature of Stable Diffusion, of prompts drawn at random: "
    return show.strip(columns, ["", ""], below=below, alt=alt + "; ".join(texts))


@torch.no_grad()
def latent_diffusion() -> show.Picture:
    """The diagram of training and sampling, with real latents."""
    sd = pipeline()
    x = data.to_model(data.scenes(1, seed=4, combinations="any", style="flat").images)
    z = latent.encode(sd.vae, x)
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    zt = diffusion.add_noise(z, eps, torch.tensor([600]), sd.scheduler.alphas_cumprod)
    made = latents([PROMPT], 7.5)
    return diagrams.latent_diffusion(
        x[0], z[0], zt[0], eps[0], made[0], latent.decode(sd.vae, made)[0], PROMPT
    )


def text_encoding() -> show.Picture:
    """The diagram from prompt to states."""
    folder = checkpoints.verified("clip")
    parts = CLIPTokenizer.from_pretrained(folder), CLIPTextModel.from_pretrained(folder).eval()
    return diagrams.text_encoding(*parts, PROMPT)


def guidance_grid() -> show.Picture:
    """Three prompts at four guidance scales, the share of attributes that the judge reads, and diversity."""
    judge, scales, each = scores.load_judge("judge-scenes"), (0, 1, 2, 10), 16
    texts, wanted = score.prompts(3, "seen", seed=5)
    prompts = [text for text in texts for _ in range(each)]
    asked = {name: values.repeat_interleave(each) for name, values in wanted.items()}
    made = {scale: draw(prompts, scale) for scale in scales}
    below = []
    for x in made.values():
        hits = score.right(judge, x, asked)
        share = sum(hits[name] for name in wanted) / len(wanted)
        spread = sum(scores.diversity(part) for part in x.split(each)) / len(texts)
        below.append(f"{share:.0%} right\ndiversity {spread:.2f}")
    columns = [
        (f"scale {scale}", x.unflatten(0, (3, each))[:, :2].flatten(0, 1)) for scale, x in made.items()
    ]
    told = "; ".join(f"scale {scale}: {text}" for scale, text in zip(scales, below, strict=True))
    alt = f"Two pictures each of {', '.join(texts)}, at four guidance scales. {told}".replace("\n", ", ")
    names = [name for text in texts for name in ("\n".join(textwrap.wrap(text, 16)), "")]
    return show.strip(columns, names, below=below, alt=alt)


@torch.no_grad()
def depth_to_image() -> show.Picture:
    """A drawing, its estimated depth, and three pictures with that depth."""
    sd = pipeline("sd-depth")
    scene = data.scenes(1, seed=8, combinations="any", noun="butterfly", style="flat")
    image = Image.fromarray(show.pixels(scene.images)[0])
    pixels = sd.feature_extractor(images=[image], return_tensors="pt").pixel_values
    depth = sd.depth_estimator(pixels).predicted_depth  # (1, 64, 64)
    depth = 2 * (depth - depth.min()) / (depth.max() - depth.min()) - 1
    columns = [("given", data.to_model(scene.images)), ("estimated depth", depth[None].expand(-1, 3, -1, -1))]
    for text in ("a red butterfly at night", "a white butterfly in the snow", "a yellow butterfly at sunset"):
        settings = {"image": image, "strength": 1.0, "num_inference_steps": 25, "output_type": "pt"}
        made = sd(f"a drawing of {text}", generator=torch.Generator().manual_seed(1), **settings).images
        columns.append(("\n".join(textwrap.wrap(text, 16)), made * 2 - 1))
    alt = "A drawn butterfly, the depth that a network sees in it, and three others with the same outline"
    return show.strip(columns, [""], alt=alt)


def dreambooth() -> show.Picture:
    """The diagram of what DreamBooth trains on."""
    others = data.scenes(4, seed=1, combinations="any", noun="creature").images
    prompts = "a drawing of a sks creature", "a drawing of a creature"
    return diagrams.dreambooth(data.subject("bubble", 4).images, others, *prompts)


FIGURES = {
    "unit1/figures/noise_to_butterflies.gif": noise_to_butterflies,
    "unit1/figures/chain.png": chain,
    "unit1/figures/many_small_steps.png": many_small_steps,
    "unit2/figures/guidance.png": guided_moons,
    "unit3/figures/samples.png": samples,
    "unit3/figures/latent_diffusion.png": latent_diffusion,
    "unit3/figures/text_encoding.png": text_encoding,
    "unit3/figures/conditioning.png": diagrams.conditioning,
    "unit3/figures/guidance.png": guidance_grid,
    "unit3/figures/depth_to_image.png": depth_to_image,
    "unit3/figures/dreambooth.png": dreambooth,
}

if __name__ == "__main__":
    main()
