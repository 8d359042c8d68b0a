"""Train `sd-depth`: a small DPT that sees depth, and a U-Net that is given it, begun from that of `sd`."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionDepth2ImgPipeline
from PIL import Image
from torch import Tensor, nn
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from course_utils import attention, data, scores, train
from recipes import common, score, sd, vae
from recipes.inpainting import widened

BATCH = 32
DEPTH_RECIPE = train.Recipe(
    steps=6000, learning_rate=1e-3, warmup_steps=100, ema_decay=0.998, precision="fp32"
)
RECIPE = train.Recipe(steps=6000, learning_rate=7e-4, warmup_steps=100, ema_decay=0.998, precision="fp32")
SUBJECT_DEPTH = 0.55  # what is closer is the subject
ABOUT = "Depth to image: a new scene with the depth, and so the outlines, of a given one."


def depth_network() -> DPTForDepthEstimation:
    """An untrained dense prediction transformer for 64 x 64 pixels."""
    return DPTForDepthEstimation(
        DPTConfig(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=64,
            patch_size=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[24, 48, 64, 64],
            reassemble_factors=[1, 0.5, 0.25, 0.125],  # 16 x 16 to 2 x 2; the head then ends at 64 x 64
            fusion_hidden_size=48,
            use_auxiliary_head=False,
        )
    )


def processor() -> DPTImageProcessor:
    """Pictures as the depth network wants them: 64 x 64 pixels in [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return DPTImageProcessor(
        size={"height": 64, "width": 64}, do_normalize=True, image_mean=half, image_std=half
    )


def depth_loss(network, batch, generator):
    """Absolute error of the depth, 0 far away to 1 close."""
    x, depth = batch
    return nn.functional.l1_loss(network(x).predicted_depth.float(), depth)


def small(depth: Tensor) -> Tensor:
    """Depth, (N, H, W), as the pipeline gives it to the U-Net: (N, 1, 8, 8), from -1 to 1 in each."""
    depth = nn.functional.interpolate(depth[:, None], (8, 8), mode="bicubic", align_corners=False)
    low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
    return 2 * (depth - low) / (high - low) - 1


def build() -> None:
    """Train both, save them with a card, and print how good they are."""
    torch.manual_seed(0)
    scenes = common.scenes(common.PICTURES)

    def pairs(n):
        chosen = common.rows(n, BATCH, len(scenes))
        return data.to_model(scenes.images[chosen]), scenes.depths[chosen, 0].float() / 255

    estimator = common.fit("depth-estimator", depth_network(), DEPTH_RECIPE, pairs, depth_loss)
    parts = (*sd.conditions(scenes), small(scenes.depths[:, 0].float() / 255))
    unet = common.fit("sd-depth", widened(5), RECIPE, lambda n: sd.batch_at(n, *parts), sd.conditional_loss)
    more = {"depth_estimator": estimator.eval(), "feature_extractor": processor()}
    pipeline = sd.assemble(StableDiffusionDepth2ImgPipeline, unet, **more)
    common.publish("sd-depth", pipeline, ABOUT, facts(pipeline))


def facts(pipeline) -> dict[str, str]:
    """For the card: what `measured` says."""
    hits = measured(pipeline)
    kept, through, given = (hits.pop(name) for name in ("outline", "outline, VAE", "outline, given"))
    return {
        "outline kept (mean IoU of the subject)": f"{kept:.3f} (read in the given pictures themselves: "
        f"{given:.3f}, after the VAE: {through:.3f})",
        "right": score.shares(hits),
    }


@torch.no_grad()
def measured(pipeline, count: int = 300, seed: int = common.TEST_SEED) -> dict[str, float]:
    """Drawn anew with other colours, patterns and backgrounds: the shares of pictures with each attribute
    as asked ("noun", ..., "all"), and the mean IoU of the subject's outline, as the depth network sees it.

    "outline": in the new pictures. "outline, VAE": in the given ones after encoding and decoding.
    "outline, given": in those themselves.
    """
    judge = scores.load_judge("judge-scenes")
    scenes = data.scenes(count, seed=seed, combinations="any", style="flat")
    _, wanted = score.prompts(count, "any", seed=seed + 2)
    wanted |= {name: scenes.labels[name] for name in ("noun", "style")}
    x = data.to_model(scenes.images)
    images = [Image.fromarray(picture) for picture in scenes.images.permute(0, 2, 3, 1).numpy()]
    made = score.generate(pipeline, score.captions_of(wanted), image=images, strength=1.0)
    truth = scenes.masks[:, 0] > 127

    def overlap(y):
        seen = torch.cat([pipeline.depth_estimator(part).predicted_depth for part in y.split(100)])
        return attention.overlap(seen > SUBJECT_DEPTH, truth).mean().item()

    views = {"outline": made, "outline, VAE": vae.rebuild(pipeline.vae, scenes.images), "outline, given": x}
    return score.right(judge, made, wanted) | {name: overlap(y) for name, y in views.items()}
