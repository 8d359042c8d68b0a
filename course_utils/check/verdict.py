"""What a check answers, and how a reader's numbers are compared with the right ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from course_utils.messages import tr


@dataclass(frozen=True)
class Verdict:
    """The answer of a check: true if right; shows itself as one line."""

    ok: bool
    message: str

    def __bool__(self):
        return self.ok

    def __repr__(self):
        if self.ok:
            return tr("✓ Right: {message}", message=self.message)
        return tr("✗ Not yet: {message}", message=self.message)


def right(message: str) -> Verdict:
    """The verdict on a right answer."""
    return Verdict(True, message)


def wrong(message: str) -> Verdict:
    """The verdict on a wrong answer; the message says what is wrong."""
    return Verdict(False, message)


def because(cause: str) -> Verdict:
    """The verdict on a wrong answer; the cause comes without its full stop."""
    return wrong(tr("{cause}.", cause=cause))


def no_answer() -> str:
    """Why a stub is no answer yet."""
    return tr("nothing came back: replace the `...` with your code and return the result")


def empty() -> Verdict:
    """The verdict on a stub."""
    return because(no_answer())


def misshapen(came: Sequence[int], wanted: Sequence[int]) -> Verdict:
    """The verdict on numbers of another shape than wanted."""
    return wrong(tr("got shape {came}, expected {wanted}.", came=tuple(came), wanted=tuple(wanted)))


def compare(
    got, wanted: torch.Tensor, praise: str, causes: Mapping[str, torch.Tensor], tolerance=1e-4
) -> Verdict:
    """Compare numbers: the shape first, then the largest difference.

    causes: what is likely wrong -> the numbers that this mistake gives; named if `got` equals them.
    """
    if got is None or got is Ellipsis:
        return empty()
    try:
        got = torch.as_tensor(got).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return wrong(
            tr(
                "got {kind}, expected a tensor of shape {shape}.",
                kind=type(got).__name__,
                shape=tuple(wanted.shape),
            )
        )
    wanted = wanted.detach().to("cpu", torch.float64)
    if got.shape != wanted.shape:
        return misshapen(got.shape, wanted.shape)
    if torch.allclose(got, wanted, atol=tolerance, rtol=tolerance):
        return right(praise)
    for cause, numbers in causes.items():
        if numbers.shape == got.shape and torch.allclose(
            got, numbers.double().cpu(), atol=tolerance, rtol=tolerance
        ):
            return because(cause)
    if not torch.isfinite(got).all():
        return wrong(
            tr("some numbers are not finite (a division by zero, or the root of a negative number?).")
        )
    return wrong(
        tr(
            "the largest difference is {difference:.3g}, expected at most {tolerance:g}.",
            difference=(got - wanted).abs().max(),
            tolerance=tolerance,
        )
    )


def attempt(function: Callable, *arguments):
    """Call the reader's function: (result, None), or (None, a Verdict that says how it failed)."""
    if not callable(function):
        return None, wrong(
            tr(
                "got {kind}, expected a function: pass its name without brackets.",
                kind=type(function).__name__,
            )
        )
    try:
        return function(*arguments), None
    except Exception as error:  # whatever the reader's code raises is an answer, not a crash of the course
        line = str(error).splitlines()[0] if str(error) else ""
        if "'ellipsis'" in line or "type ellipsis" in line:
            return None, empty()
        return None, wrong(tr("your function raised {error}: {line}", error=type(error).__name__, line=line))
