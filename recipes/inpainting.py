"""Train the U-Net of `sd-inpainting`: nine input channels, begun from the U-Net of `sd`."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch import Tensor

from course_utils import data, latent, scores, train
from recipes import common, score, sd, vae

STEPS = 1200
RECIPE = train.Recipe(steps=STEPS, learning_rate=7e-4, warmup_steps=100, ema_decay=0.998, precision="fp32")
ABOUT = "Inpainting: the part of a scene that a mask covers is drawn anew, as the prompt says."


def widened(in_channels: int) -> torch.nn.Module:
    """The U-Net of `sd` with more input channels, to which it listens not yet: their weights are 0."""
    wide, weights = sd.network(in_channels), text_to_image_unet().state_dict()
    entry = torch.zeros_like(wide.conv_in.weight)
    entry[:, :4] = weights["conv_in.weight"]
    wide.load_state_dict(weights | {"conv_in.weight": entry})
    return wide.train()


def text_to_image_unet() -> UNet2DConditionModel:
    """The finished U-Net of `sd`."""
    return UNet2DConditionModel.from_pretrained(common.folder("sd"), subfolder="unet").float()


def random_masks(subjects: Tensor, seed: int = 0) -> Tensor:
    """What is to be drawn anew, (N, 1, H, W), 0 or 1: for half of the pictures a box around the subject,
    uint8 (N, 1, H, W), for the others a box or an ellipse anywhere."""
    generator, size = torch.Generator().manual_seed(seed), subjects.shape[-1]
    axis = (torch.arange(size) + 0.5) / size
    masks = []
    for i, subject in enumerate(subjects[:, 0] > 127):
        if i % 2:
            x0, x1 = _bounds(subject.any(0), axis, generator)
            y0, y1 = _bounds(subject.any(1), axis, generator)
            inside = (axis >= x0) & (axis <= x1)
            masks.append(((axis >= y0) & (axis <= y1))[:, None] & inside)
        else:
            cx, cy, a, b, kind = torch.rand(5, generator=generator).tolist()
            u, v = (axis - cx).abs() / (0.1 + 0.4 * a), (axis - cy).abs()[:, None] / (0.1 + 0.4 * b)
            masks.append(u.square() + v.square() <= 1 if kind < 0.5 else u.maximum(v) <= 1)
    return torch.stack(masks)[:, None].float()


def _bounds(occupied, axis, generator):
    """From where to where something lies, with a margin of up to a tenth at either end."""
    margin = torch.rand(2, generator=generator) * 0.1
    return axis[occupied][0] - margin[0], axis[occupied][-1] + margin[1]


@torch.no_grad()
def masked_latents(auto, images: Tensor, masks: Tensor) -> Tensor:
    """Latents of the pictures without what the masks cover (which is grey), scaled: (N, 4, 8, 8)."""
    parts = zip(images.split(100), masks.split(100), strict=True)
    latents = [auto.encode(data.to_model(x) * (1 - mask)).latent_dist.mean for x, mask in parts]
    return torch.cat(latents) * auto.config.scaling_factor


def build() -> None:
    """Train it, save it with its card, and print how good it is."""
    torch.manual_seed(0)
    scenes, auto = common.scenes(common.PICTURES), vae.load()
    masks = random_masks(scenes.masks)
    visible = common.kept("masked-latents", lambda: masked_latents(auto, scenes.images, masks))
    parts = (*sd.conditions(scenes), masks[:, :, ::8, ::8], visible)  # masks as the pipeline resizes them
    unet = common.fit(
        "sd-inpainting", widened(9), RECIPE, lambda n: sd.batch_at(n, *parts), sd.conditional_loss
    )
    pipeline = sd.assemble(StableDiffusionInpaintPipeline, unet, **sd.UNCHECKED)
    common.publish("sd-inpainting", pipeline, ABOUT, facts(pipeline))


def facts(pipeline) -> dict[str, str]:
    """For the card: what `measured` says."""
    found = measured(pipeline)
    return {
        "asked subject inside the mask": f"{found['noun']:.1%} (all attributes: {found['all']:.1%})",
        "mean error outside the mask, of 2": f"{found['outside']:.4f} (with the source's latents put back "
        f"there: {found['outside, put back']:.4f}; of the VAE alone: {found['outside, VAE']:.4f}; with "
        "`padding_mask_crop=64`, which pastes the source's pixels back: 0)",
    }


@torch.no_grad()
def measured(pipeline, count: int = 300, seed: int = common.TEST_SEED) -> dict[str, float]:
    """Is the asked subject inside the mask ("noun", "all"), and how far is what lies outside from what was
    there, of 2?

    "outside": as drawn. "outside, put back": with the source's own latents there. No U-Net comes nearer than
    that, for the decoder sees the whole sheet. "outside, VAE": of the autoencoder alone.
    """
    judge = scores.load_judge("judge-scenes")
    scenes = data.scenes(count, seed=seed, combinations="any")
    _, wanted = score.prompts(count, "any", seed)
    masks = random_masks(scenes.masks.repeat_interleave(2, 0))[1::2]  # boxes around the subject
    for name in ("background", "style"):  # those stay as they are, so the prompt says what is there
        wanted[name] = scenes.labels[name]
    x = data.to_model(scenes.images)
    given = {"image": list((x + 1) / 2), "mask_image": list(masks), "height": 64, "width": 64}
    z = score.generate(pipeline, score.captions_of(wanted), latents=True, **given)
    z0 = vae.encode(pipeline.vae, scenes.images) * pipeline.vae.config.scaling_factor
    inside = masks[:, :, ::8, ::8]  # as the pipeline shrinks them
    made, put_back, through = (
        torch.cat([latent.decode(pipeline.vae, part) for part in each.split(100)])
        for each in (z, inside * z + (1 - inside) * z0, z0)
    )
    hits = score.right(judge, made, wanted)
    found = {"noun": hits["noun"], "all": hits["all"]}
    for name, y in {"outside": made, "outside, put back": put_back, "outside, VAE": through}.items():
        found[name] = (((y - x).abs() * (1 - masks)).sum() / (3 * (1 - masks).sum())).item()
    return found
