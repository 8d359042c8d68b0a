"""One check per exercise: `check.NOTEBOOK.name(your_answer)` says whether it is right, or what is wrong.

A check never raises, whatever it is given: its verdict is true or false and shows itself as a line.
"""

from course_utils.check import (
    conditioning,
    deep_dive,
    dreambooth,
    finetuning,
    introduction,
    quicktour,
    scratch,
    stable_diffusion,
)

__all__ = [
    "conditioning",
    "deep_dive",
    "dreambooth",
    "finetuning",
    "introduction",
    "quicktour",
    "scratch",
    "stable_diffusion",
]
