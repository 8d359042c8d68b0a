"""Catalogues of translations: gettext PO files in `i18n/`, one for each document and language."""

import difflib
import sys
from pathlib import Path

import polib

from tools.files import write_text

FOLDER = Path("i18n")
CLOSE = 0.6  # texts that have this much in common are versions of one
HEADER = {
    "Project-Id-Version": "diffusion course",
    "Language": "",
    "MIME-Version": "1.0",
    "Content-Type": "text/plain; charset=UTF-8",
    "Content-Transfer-Encoding": "8bit",
}


def place(language, document):
    """Return where the catalogue of `document` lies: i18n/ja/unit1/README.po for unit1/README.md."""
    return FOLDER / language / Path(document).with_suffix(".po")


def read(path, language):
    """Return the catalogue at `path`, or an empty one for `language`."""
    if not path.exists():
        catalogue = polib.POFile()
        catalogue.metadata = {**HEADER, "Language": language}
        return catalogue
    try:
        return polib.pofile(str(path), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path} is not a readable catalogue ({error}): mend that line, or git checkout -- {path}")


def write(catalogue, path):
    """Write `catalogue`, with lines as long as they are: a change of one word then shows as one line."""
    catalogue.wrapwidth = 0
    write_text(str(catalogue).rstrip("\n") + "\n", path)


def done(entry):
    """Return whether `entry` has a translation that holds for its text as it is."""
    return bool(entry.msgstr) and not entry.fuzzy and not entry.obsolete


def same(one, other):
    """Return whether two catalogues say the same, however their files are set."""

    def content(catalogue):
        return [(*key(e), e.msgstr, e.fuzzy, e.previous_msgid, bool(e.obsolete)) for e in catalogue]

    return content(one) == content(other)


def key(entry):
    """Return (context, text): what gettext finds an entry by."""
    return entry.msgctxt, entry.msgid


def merge(old, units):
    """Return the catalogue of the `units`, pairs (context or None, text), with what `old` has of them.

    A text that has changed keeps its translation, which turns fuzzy; one that has gone leaves it as obsolete.
    """
    units, spare = list(dict.fromkeys(units)), [entry for entry in old if entry.msgstr]
    found = {}
    for fits in (identical, of_the_same_text, of_the_same_place, of_a_close_text):
        for unit in units:
            entry = None if unit in found else fits(unit, spare)
            if entry:
                found[unit] = entry
                spare = [each for each in spare if each is not entry]
    merged = polib.POFile(wrapwidth=0)
    merged.metadata, merged.header = old.metadata, old.header
    merged.extend(renewed(unit, found.get(unit)) for unit in units)
    merged.extend(retired(entry) for entry in spare)
    return merged


def identical(unit, entries):
    """Return the entry of this place and text, or None."""
    return next((entry for entry in entries if key(entry) == unit), None)


def of_the_same_text(unit, entries):
    """Return the entry whose translation is of this text, or None."""
    return next((entry for entry in entries if unit[1] == translated_text(entry)), None)


def of_the_same_place(unit, entries):
    """Return the entry of this cell, or None."""
    return next((entry for entry in entries if unit[0] and entry.msgctxt == unit[0]), None)


def of_a_close_text(unit, entries):
    """Return the entry whose text has most in common with this one, or None."""
    texts = {translated_text(entry): entry for entry in entries}
    close = difflib.get_close_matches(unit[1], texts, 1, CLOSE)
    return texts[close[0]] if close else None


def translated_text(entry):
    """Return the English that the translation of `entry` was made from."""
    return entry.previous_msgid if entry.fuzzy and entry.previous_msgid else entry.msgid


def renewed(unit, entry):
    """Return the entry of `unit` with the translation of `entry`: fuzzy, if made from another text."""
    fresh = polib.POEntry(msgctxt=unit[0], msgid=unit[1])
    if entry:
        fresh.msgstr, fresh.tcomment = entry.msgstr, entry.tcomment
        if translated_text(entry) != unit[1]:
            fresh.flags, fresh.previous_msgid = ["fuzzy"], translated_text(entry)
        elif entry.fuzzy and not entry.previous_msgid:  # a translator's own mark
            fresh.flags = ["fuzzy"]
    return fresh


def retired(entry):
    """Return `entry` as one that no text asks for any more."""
    text = translated_text(entry)
    return polib.POEntry(msgctxt=entry.msgctxt, msgid=text, msgstr=entry.msgstr, obsolete=True)
