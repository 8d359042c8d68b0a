"""What several test modules share. The Hub of all tests is one on this machine: none can ask the real one."""

import os
import tempfile
import time

import pytest

from tests.hub import Hub
from tools import browser


def published(kind, name):
    from tests.published import make  # imports torch

    return make(kind, name)


HUB, HOME = Hub(published), tempfile.TemporaryDirectory(prefix="hub_home_")
os.environ |= HUB.environment(HOME.name)
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    os.environ.pop(name, None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub on this machine, without faults, at full scale and with empty caches."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setenv("COURSE_SCALE", "full")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    yield HUB
    HUB.reset()


@pytest.fixture
def waits(monkeypatch):
    """Nobody waits; the seconds that somebody would have waited are noted."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch: the fastest for tiny tensors, and sums round alike in every process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter):
    """Say how to have the tests that need a browser run, if they were skipped."""
    if any(browser.MISSING in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"The tests in a browser were skipped: {browser.MISSING}.")
