"""What several test modules share. The Hub of all tests is one on this machine: none can ask the real one."""

import os
import re
import string
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


NARROW = string.ascii_letters
WIDE = str.maketrans(NARROW, "".join(chr(ord(letter) + 0xFEE0) for letter in NARROW))


def widened(text):
    """The text of a message with wide letters outside of its fields."""
    return re.sub(r"\{[^{}]*\}|[^{}]+", lambda m: m[0] if m[0][0] == "{" else m[0].translate(WIDE), text)


@pytest.fixture(scope="session")
def wide_messages(tmp_path_factory):
    """A folder with a catalogue of all messages of the package in one language: English in wide letters."""
    import polib

    from tools import messages, notebooks

    catalogue = polib.POFile()
    catalogue.metadata = {"Content-Type": "text/plain; charset=UTF-8"}
    catalogue += [
        polib.POEntry(msgid=text, msgstr=widened(text)) for _, text in messages.units(notebooks.ROOT)
    ]
    place = tmp_path_factory.mktemp("locale")
    (place / "ja" / "LC_MESSAGES").mkdir(parents=True)
    catalogue.save_as_mofile(place / "ja" / "LC_MESSAGES" / "course_utils.mo")
    return place


@pytest.fixture
def wide(wide_messages, monkeypatch):
    """All messages have wide letters; returns the function that gives a text those.

    `unicodedata.normalize("NFKC", ...)` makes English of it again.
    """
    from course_utils import messages

    monkeypatch.setattr(messages, "LOCALE", wide_messages)
    monkeypatch.setenv("COURSE_LANG", "ja")
    messages._catalogue.cache_clear()
    yield widened
    messages._catalogue.cache_clear()


def pytest_terminal_summary(terminalreporter):
    """Say how to have the tests that need a browser run, if they were skipped."""
    if any(browser.MISSING in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"The tests in a browser were skipped: {browser.MISSING}.")
