"""Every check of every exercise: whatever it is given, it answers, and never raises."""

import inspect

import pytest
import torch

from course_utils import check
from course_utils.check.verdict import Verdict


def checks():
    """Every public check of every module of `check`."""
    for module in (getattr(check, name) for name in check.__all__):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(function, id=f"{module.__name__.split('.')[-1]}.{name}")


GARBAGE = [
    None,
    ...,
    3,
    "text",
    torch.zeros(3),
    lambda: 1,
    lambda *a: None,
    lambda *a: ...,
    lambda *a: "text",
    lambda *a: [1, [2]],
    lambda *a: True,
    lambda *a: a[0] * float("nan"),
    lambda *a: a[0][:0],
    lambda *a: torch.zeros(()),
    lambda *a: 1 / 0,
]


@pytest.mark.parametrize("function", list(checks()))
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_answered_not_raised(function, garbage):
    verdict = function(garbage)
    assert isinstance(verdict, Verdict)
    assert not verdict
    assert "Not yet" in repr(verdict)


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: check.introduction.pixel_range(lambda images: (images / 127.5 - 1).tolist()),
        lambda: check.introduction.pixel_range(lambda images: (images / 127.5 - 1).numpy()),
        lambda: check.conditioning.both_answers(lambda model, xt, *a: (xt.numpy(), xt.numpy())),
    ],
)
def test_what_is_no_tensor_is_answered_not_raised(verdict):
    assert "expected" in verdict().message and not verdict()


def test_gradients_of_a_loss_of_ones_own_pass():
    def gather(model, loss, batches):
        for x in batches:
            ((model(x) - 1).square().mean() / len(batches)).backward()

    assert check.finetuning.accumulation(gather)


def test_what_the_readers_code_raised_is_told():
    verdict = check.introduction.pixel_range(lambda images: 1 / 0)
    assert "ZeroDivisionError" in verdict.message
