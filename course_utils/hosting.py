"""The set-up line of a notebook, wherever it was opened: on a laptop, Colab or Kaggle."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from course_utils import messages, profile
from course_utils.messages import tr

SETTINGS = ("BATCH", "COUNT", "SIZE")  # what the notebooks call that with which memory grows
UNTOUCHED = ("torch", "numpy", "ipywidgets")  # a host's own builds: never replaced


@dataclass(frozen=True)
class Cost:
    """What a notebook needs at one scale.

    minutes and memory_gb: measured on 2 CPU cores at mini, estimated for a 16 GB card at full. For the
    hackathon at full: 4 runs of 800 steps of 1.2 s, and 930 pictures of 3.5 s; of its largest run with 8-bit
    Adam, 9.8 GB by `memory.footprint`, beside 2.1 GB for the base and 1 GB for the card itself.
    """

    minutes: float
    memory_gb: float
    download_mb: int


COSTS = {
    "unit1/00_quicktour": {"mini": Cost(2, 0.8, 0), "full": Cost(5, 10, 8240)},
    "unit1/01_introduction_to_diffusers": {"mini": Cost(3, 1.2, 0), "full": Cost(30, 6, 240)},
    "unit1/02_diffusion_models_from_scratch": {"mini": Cost(4, 0.9, 0), "full": Cost(15, 4, 18)},
    "unit2/01_finetuning_and_guidance": {"mini": Cost(3, 1.2, 0), "full": Cost(10, 4, 850)},
    "unit2/02_class_conditioned_diffusion_model_example": {"mini": Cost(3, 1, 0), "full": Cost(15, 4, 18)},
    "unit3/01_stable_diffusion_introduction": {"mini": Cost(3, 1.2, 0), "full": Cost(10, 8, 10600)},
    "unit3/02_stable_diffusion_deep_dive": {"mini": Cost(3, 1, 0), "full": Cost(15, 12, 3350)},
    "hackathon/dreambooth": {"mini": Cost(6, 1.6, 0), "full": Cost(120, 13, 3350)},
}


def start(notebook: str) -> None:
    """Make a notebook ready and print one line: scale, device, what it costs there, how to change the scale.

    Installs those of the course's requirements that are missing; what is there stays as it is.
    """
    messages.follow(notebook)
    _install(missing_requirements())
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault(
        "TRANSFORMERS_VERBOSITY", "error"
    )  # else it says what torchvision would be good for
    scale = profile.scale()
    if scale == "mini":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # mini promises to need no network
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # else each model that is loaded shows one
    print(_situation(scale, COSTS[notebook][scale]))
    _advise_on_memory()
    # the depth pipeline asks for autocast everywhere; in single precision torch warns that it is none
    warnings.filterwarnings("ignore", "In CPU autocast")
    from diffusers.utils import logging

    logging.disable_progress_bar()  # of the parts of a pipeline; those of training and sampling stay
    # of adapters for the U-Net alone it says that the text encoder has none
    logging.get_logger("diffusers.loaders.lora_base").setLevel(logging.ERROR)


def _situation(scale, cost):
    """The line that a notebook begins with."""
    if scale == "mini":
        needs = tr(
            "This notebook takes about {minutes:g} minutes, {memory_gb:g} GB of memory and {download_mb} MB "
            "of downloads.",
            **vars(cost),
        )
    else:
        needs = tr(
            "This notebook takes about {minutes:g} minutes, {memory_gb:g} GB of memory and {download_mb} MB "
            "of downloads (estimates, not measured).",
            **vars(cost),
        )
    here = tr("Scale: {scale} on {device}.", scale=scale, device=profile.device())
    other = profile.SCALES[scale == "mini"]
    change = tr("To change the scale, restart with COURSE_SCALE={other}.", other=other)
    told = [here, needs, change]
    if os.environ.get("COURSE_REHEARSAL"):
        told.append(tr("COURSE_REHEARSAL is set: nothing is learned."))
    return " ".join(told)


def _advise_on_memory():
    """In a notebook, let every error of memory end with the settings to lower."""
    from IPython import get_ipython

    def show(shell, kind, error, traceback, tb_offset=None):
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
        if profile.out_of_memory(error):
            values = {name: shell.user_ns[name] for name in SETTINGS if name in shell.user_ns}
            settings = [tr("{name} ({value} now)", name=name, value=value) for name, value in values.items()]
            said = tr(
                "Memory has run out on {device}: restart the kernel, lower {settings} and run the cells "
                "again, or restart with COURSE_SCALE=mini.",
                device=profile.device(),
                settings=", ".join(settings) or tr("the number of pictures at once"),
            )
            print(said, file=sys.stderr)

    if get_ipython():
        get_ipython().set_custom_exc((RuntimeError, MemoryError), show)


class Token(str):
    """A token that does not show itself where a cell ends with it, nor in a traceback's values."""

    def __repr__(self):
        return tr("a token (not shown)")


def token() -> Token | None:
    """A Hub token: HF_TOKEN, else the secret of that name in Colab or Kaggle, else what the reader types."""
    for source in (lambda: os.environ["HF_TOKEN"], _colab_secret, _kaggle_secret, _typed):
        try:
            found = source()
        except Exception:  # not this host, or no such secret: ask the next
            continue
        if found and found.strip():
            return Token(found.strip())
    return None


def _typed():
    import getpass

    return getpass.getpass(tr("A token of your account that may write (it is not shown): "))


def _colab_secret():
    from google.colab import userdata

    return userdata.get("HF_TOKEN")


def _kaggle_secret():
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret("HF_TOKEN")


def missing_requirements() -> list[str]:
    """The course's requirements of which no version at all is installed."""
    wanted = [r for r in importlib.metadata.requires("course_utils") or [] if "extra ==" not in r]
    return [r for r in wanted if not _installed(re.match(r"[\w.-]+", r).group())]


def _installed(name):
    try:
        importlib.metadata.version(name)
        return True
    except importlib.metadata.PackageNotFoundError:
        return False


def _install(requirements):
    if not requirements:
        return
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "constraints.txt"
        pins.write_text(
            "".join(f"{n}=={importlib.metadata.version(n)}\n" for n in UNTOUCHED if _installed(n))
        )
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(pins), *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            tr(
                "got an error from pip while installing {packages} ({error}), expected it to succeed: check "
                "the network, or install them yourself and run this cell again.",
                packages=", ".join(requirements),
                error=done.stderr.strip()[-300:],
            )
        )
    importlib.invalidate_caches()
