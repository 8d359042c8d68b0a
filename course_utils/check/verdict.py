"""What a check answers, and how a reader's numbers are compared with the right ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Verdict:
    """The answer of a check: true if right; shows itself as one line."""

    ok: bool
    message: str

    def __bool__(self):
        return self.ok

    def __repr__(self):
        return f"{'✓ Right:' if self.ok else '✗ Not yet:'} {self.message}"


def right(message: str) -> Verdict:
    """The verdict on a right answer."""
    return Verdict(True, message)


def wrong(message: str) -> Verdict:
    """The verdict on a wrong answer; the message says what is wrong."""
    return Verdict(False, message)


EMPTY = wrong("nothing came back: replace the `...` with your code and return the result.")


def compare(
    got, wanted: torch.Tensor, praise: str, causes: Mapping[str, torch.Tensor], tolerance=1e-4
) -> Verdict:
    """Compare numbers: the shape first, then the largest difference.

    causes: what is likely wrong -> the numbers that this mistake gives; named if `got` equals them.
    """
    if got is None or got is Ellipsis:
        return EMPTY
    try:
        got = torch.as_tensor(got).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return wrong(f"got {type(got).__name__}, expected a tensor of shape {tuple(wanted.shape)}.")
    wanted = wanted.detach().to("cpu", torch.float64)
    if got.shape != wanted.shape:
        return wrong(f"got shape {tuple(got.shape)}, expected {tuple(wanted.shape)}.")
    if torch.allclose(got, wanted, atol=tolerance, rtol=tolerance):
        return right(praise)
    for cause, numbers in causes.items():
        if numbers.shape == got.shape and torch.allclose(
            got, numbers.double().cpu(), atol=tolerance, rtol=tolerance
        ):
            return wrong(f"{cause}.")
    if not torch.isfinite(got).all():
        return wrong("some numbers are not finite (a division by zero, or the root of a negative number?).")
    return wrong(
        f"the largest difference is {(got - wanted).abs().max():.3g}, expected at most {tolerance:g}."
    )


def attempt(function: Callable, *arguments):
    """Call the reader's function: (result, None), or (None, a Verdict that says how it failed)."""
    if not callable(function):
        return None, wrong(
            f"got {type(function).__name__}, expected a function: pass its name without brackets."
        )
    try:
        return function(*arguments), None
    except Exception as error:  # whatever the reader's code raises is an answer, not a crash of the course
        line = str(error).splitlines()[0] if str(error) else ""
        if "'ellipsis'" in line or "type ellipsis" in line:
            return None, EMPTY
        return None, wrong(f"your function raised {type(error).__name__}: {line}")
