"""Scale, device and precision."""

import pytest
import torch

from course_utils import profile


def test_the_scale_follows_the_device(monkeypatch):
    monkeypatch.delenv("COURSE_SCALE", raising=False)
    for device, scale in (("cpu", "mini"), ("mps", "mini"), ("cuda", "full")):
        monkeypatch.setattr(profile, "device", lambda device=device: device)
        assert profile.scale() == scale
        assert profile.pick("a", "b") == {"mini": "a", "full": "b"}[scale]
    monkeypatch.setenv("COURSE_SCALE", "")
    assert profile.scale() == "full"


def test_the_environment_decides(monkeypatch):
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(profile, "device", lambda device=device: device)
        for scale in profile.SCALES:
            monkeypatch.setenv("COURSE_SCALE", scale)
            assert profile.scale() == scale


@pytest.mark.parametrize("scale", ["huge", "Mini", " full"])
def test_an_unknown_scale_is_refused(monkeypatch, scale):
    monkeypatch.setenv("COURSE_SCALE", scale)
    for use in (profile.scale, lambda: profile.pick(1, 2)):
        with pytest.raises(ValueError, match="expected mini or full: set one of them, or unset it") as error:
            use()
        assert f"got COURSE_SCALE={scale!r}" in str(error.value)


def test_the_device_is_one_that_torch_can_use():
    assert profile.device() in ("cpu", "cuda", "mps")
    assert torch.zeros(1, device=profile.device()).sum().item() == 0
    assert isinstance(profile.fast_bf16("cpu"), bool)
    assert profile.fast_bf16("mps") is False


@pytest.mark.parametrize(("scale", "count"), [("mini", 7), ("full", 90)])
def test_a_rehearsal_is_short(monkeypatch, scale, count):
    monkeypatch.setenv("COURSE_SCALE", scale)
    monkeypatch.delenv("COURSE_REHEARSAL", raising=False)
    assert profile.effort(mini=7, full=90) == count
    monkeypatch.setenv("COURSE_REHEARSAL", "4")
    assert profile.effort(mini=7, full=90) == 4
    assert profile.effort(mini=3, full=3) == 3
    for wrong in ("0", "-1", "few"):
        monkeypatch.setenv("COURSE_REHEARSAL", wrong)
        with pytest.raises(ValueError, match=f"got COURSE_REHEARSAL='{wrong}', expected a number from 1 up"):
            profile.effort(7, 90)


def test_errors_of_memory_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 52)
    assert profile.out_of_memory(caught.value)
    assert profile.out_of_memory(MemoryError()) and profile.out_of_memory(torch.OutOfMemoryError())
    assert not profile.out_of_memory(RuntimeError("mine"))
    assert not profile.out_of_memory(ValueError("out of memory"))
