"""What the Hub publishes under the ids of the course's table, small: the same layout, random weights.

Beside the files that the course wants lie those that it must leave: the same weights in other forms, and
pickles that run code when they are loaded. `hub.asked` shows which were fetched.
"""

from __future__ import annotations

import io
import pickle
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from course_utils import checkpoints, data

CAUGHT = Path(tempfile.gettempdir()) / "a_pickle_was_loaded"
DIGITS = """---
dataset_info:
  config_name: mnist
  features:
  - name: image
    dtype: image
  - name: label
    dtype: int64
configs:
- config_name: mnist
  data_files:
  - split: train
    path: mnist/train-*
  - split: test
    path: mnist/test-*
  default: true
---
"""


class Trap:
    """Once unpickled, it leaves a trace."""

    def __reduce__(self):
        return Path.touch, (CAUGHT,)


TRAP = pickle.dumps(Trap())


@cache
def make(kind: str, name: str) -> dict[str, bytes] | None:
    """The files of a repository, by path; None if the course knows no such id."""
    if kind == "datasets":
        known = {hub_id: key for key, each in checkpoints.DATASETS.items() for hub_id in each.ids}
        return SETS[known[name]]() if name in known else None
    models = checkpoints.MODELS.items()
    known = {hub_id: key for key, each in models for hub_id in each.ids}
    if any(hub_id.startswith(f"{name}@") for hub_id in known):  # the course wants another revision
        return {"config.json": b"{}", "pytorch_model.bin": TRAP}
    if name not in known:
        return None
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        return MODELS[known[name]](name)
    finally:
        torch.random.set_rng_state(state)


# --- models ---


def stable_diffusion(name):
    """Text to image; of the two that the course knows, only v1.5 has a safety checker."""
    from diffusers import StableDiffusionPipeline

    more = checker() if "v1-5" in name else {"safety_checker": None, "feature_extractor": None}
    more["requires_safety_checker"] = "v1-5" in name
    return published(StableDiffusionPipeline(**latent(), **more))


def inpainting(name):
    from diffusers import StableDiffusionInpaintPipeline

    parts = latent(in_channels=9)
    return published(StableDiffusionInpaintPipeline(**parts, safety_checker=None, feature_extractor=None))


def depth(name):
    from diffusers import StableDiffusionDepth2ImgPipeline
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    neck = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    config = DPTConfig(**sizes, **neck, image_size=384, patch_size=32, is_hybrid=False)
    estimator = {"depth_estimator": DPTForDepthEstimation(config), "feature_extractor": DPTImageProcessor()}
    return published(StableDiffusionDepth2ImgPipeline(**latent(in_channels=5), **estimator))


def upscaler(name):
    from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline

    parts = latent(in_channels=7, levels=3, factor=0.08333, num_class_embeds=1000)
    parts["scheduler"] = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    low = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return published(StableDiffusionUpscalePipeline(**parts, low_res_scheduler=low))


def clip(name):
    """Where OpenAI has pickles and LAION has all forms, in full precision at the root."""
    from transformers import CLIPModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(checkpoints.MINIATURES / "clip")
    files = saved(CLIPModel(clip_config(tokens, image=224)), tokens, image_processor(224))
    return files | {"pytorch_model.bin": TRAP, "open_clip_model.safetensors": b"another form"}


def latent(in_channels=4, levels=4, factor=0.18215, **more):
    """The parts of a latent pipeline whose VAE halves the picture `levels` - 1 times."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(checkpoints.MINIATURES / "clip")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4,) * levels,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=512,
        scaling_factor=factor,
    )
    unet = UNet2DConditionModel(
        sample_size=512 // 2 ** (levels - 1),
        in_channels=in_channels,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=1,
        norm_num_groups=2,
        **more,
    )
    kept = {"skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    text = CLIPTextModel(clip_config(tokens).text_config)
    return {
        "vae": vae,
        "unet": unet,
        "text_encoder": text,
        "tokenizer": tokens,
        "scheduler": PNDMScheduler(**betas, **kept),
    }


def checker():
    """A safety checker that finds nothing unsafe: its thresholds are out of reach."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(checkpoints.MINIATURES / "clip")
    checker = StableDiffusionSafetyChecker(clip_config(tokens, image=224))
    return {"safety_checker": checker, "feature_extractor": image_processor(224)}


def clip_config(tokens, image=32):
    from transformers import CLIPConfig

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end, start = tokens.eos_token_id, tokens.bos_token_id
    words = {"vocab_size": len(tokens), "eos_token_id": end, "bos_token_id": start, "pad_token_id": end}
    vision = {**small, "image_size": image, "patch_size": 32, "projection_dim": 16}
    return CLIPConfig(
        text_config={**small, **words, "projection_dim": 16}, vision_config=vision, projection_dim=16
    )


def image_processor(size):
    from transformers import CLIPImageProcessor

    square = {"height": size, "width": size}
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square)


def published(pipeline):
    """A pipeline as a repository: in half precision, and in the forms that the course leaves."""
    files = saved(pipeline.to(torch.float16), variant="fp16")
    weights = [path for path in files if path.endswith(".fp16.safetensors")]
    other = {path.replace(".fp16.", "."): b"full precision" for path in weights}
    pickles = {path.replace(".safetensors", ".bin"): TRAP for path in [*weights, *other]}
    return files | other | pickles | {"v1-5-pruned.ckpt": TRAP, "v1-5-pruned.safetensors": b"all in one"}


def saved(*parts, **settings):
    """What `save_pretrained` of the parts writes: path -> content."""
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            part.save_pretrained(folder, **settings)
        return contents(folder)


def contents(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- picture sets ---


def butterflies():
    """Photographs: wider than high, as JPEG, with what the museum knows about them."""
    wide = np.pad(
        data.butterflies(160, size_px=64).images.numpy(), ((0, 0), (0, 0), (0, 0), (16, 16)), "edge"
    )
    pictures = [encoded(image.transpose(1, 2, 0), "JPEG") for image in wide]
    names = [f"butterfly {i}" for i in range(len(pictures))]
    table = parquet({"image_alt": names, "image": pictures, "sim_score": [0.5] * len(names)})
    return {"data/train-00000-of-00001.parquet": table, "README.md": b"# Butterflies\n"}


def flowers():
    images = data.flowers(80, size_px=64).images.permute(0, 2, 3, 1).numpy()
    table = parquet({"image": [encoded(image, "JPEG") for image in images]})
    return {"data/train-00000-of-00001.parquet": table}


def digits():
    """Handwriting of 28 x 28 pixels, in two parts."""
    from PIL import Image

    small = data.digits()
    large = [Image.fromarray(image[0]).resize((28, 28)) for image in small.images.numpy()[:900]]
    pictures, labels = [encoded(np.asarray(image), "PNG") for image in large], small.labels["digit"].tolist()
    return {
        "mnist/train-00000-of-00001.parquet": parquet({"image": pictures[:700], "label": labels[:700]}),
        "mnist/test-00000-of-00001.parquet": parquet({"image": pictures[700:], "label": labels[700:900]}),
        "README.md": DIGITS.encode(),
    }


def encoded(pixels, form):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def parquet(columns):
    """A table as `datasets` writes it, with the column "image" marked as pictures."""
    from datasets import Dataset, Image

    columns["image"] = [{"bytes": content, "path": None} for content in columns["image"]]
    file = io.BytesIO()
    Dataset.from_dict(columns).cast_column("image", Image()).to_parquet(file)
    return file.getvalue()


MODELS = {
    "sd": stable_diffusion,
    "sd-inpainting": inpainting,
    "sd-depth": depth,
    "sd-upscaler": upscaler,
    "clip": clip,
}
SETS = {"butterflies": butterflies, "flowers": flowers, "digits": digits}
