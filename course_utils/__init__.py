"""Helpers for the notebooks of the course. Submodules load when they are first used."""

import importlib

__version__ = "0.1.0"

_SUBMODULES = (
    "asking",
    "attention",
    "check",
    "checkpoints",
    "data",
    "diffusion",
    "downloads",
    "dreambooth",
    "explore",
    "guidance",
    "hosting",
    "jury",
    "latent",
    "leaderboard",
    "memory",
    "profile",
    "runs",
    "scores",
    "script",
    "show",
    "submission",
    "text",
    "train",
    "unet",
)


def start(notebook: str) -> None:
    """See `hosting.start`: make a notebook ready and say what it costs here."""
    from course_utils import hosting

    hosting.start(notebook)


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_SUBMODULES])
