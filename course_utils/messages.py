"""What the package says, in the reader's language: gettext catalogues in `locale/`, chosen by COURSE_LANG."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"
_DRAWN = ContextVar("_DRAWN", default=False)  # whether what is said now will stand in a figure


def tr(message: str, /, **values) -> str:
    """The message in the language that COURSE_LANG names, with the values filled in.

    message: English, with a named field for each value, as for str.format: "got {got}, expected {expected}".
    Where there is no catalogue, or no translation in it, the message stays English.
    """
    language = "en" if _DRAWN.get() else os.environ.get("COURSE_LANG") or "en"
    return _catalogue(language).gettext(message).format(**values)


@cache
def _catalogue(language):
    import gettext

    return gettext.translation("course_utils", LOCALE, [language], fallback=True)


@contextmanager
def drawn() -> Iterator[None]:
    """Within the block, messages are English in every language: the font of figures has no other letters."""
    before = _DRAWN.set(True)
    try:
        yield
    finally:
        _DRAWN.reset(before)


def none_of(argument: str, value, options: Iterable[str]) -> str:
    """What is said of an argument's value that is none of the options."""
    known = ", ".join(options)
    return tr("got {name}={value!r}, expected one of {known}.", name=argument, value=value, known=known)


def unknown(what: str, value, options: Iterable[str]) -> str:
    """What is said of a name that nothing has. what: what it names, with its article: "the subject"."""
    known = ", ".join(options)
    return tr("got {what} {value!r}, expected one of {known}.", what=what, value=value, known=known)


def follow(notebook: str) -> None:
    """Set COURSE_LANG, where it is not set, to the language of the open notebook: "ja" in unit1/ja/….ipynb.

    notebook: the English notebook's name without ending, such as "unit1/01_introduction_to_diffusers".
    Code cells are the same in every language, so only the notebook's place can tell; a host that keeps it to
    itself (Kaggle) leaves English.
    """
    folder, name = notebook.split("/")
    found = re.search(rf"{folder}[\\/](\w+)[\\/]{name}\.ipynb", _opened())
    if found:
        os.environ.setdefault("COURSE_LANG", found[1])


def _opened():
    """What the host tells of the open notebook: its path or (Colab) its first text, whose links name it."""
    from IPython import get_ipython

    shell = get_ipython()
    if type(shell).__module__.startswith("google.colab"):
        return _first_text_in_colab()
    in_vscode = shell.user_ns.get("__vsc_ipynb_file__") if shell else None
    return os.environ.get("JPY_SESSION_NAME") or in_vscode or ""


def _first_text_in_colab():
    from google.colab import _message

    try:
        cells = _message.blocking_request("get_ipynb", timeout_sec=5)["ipynb"]["cells"]
        return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    except Exception:  # not a public function of Colab's: without its answer, messages stay English
        return ""
