"""Translations: one command that writes them from the English documents and the catalogues, one that checks.

    python -m tools.i18n --write    # catalogues, translated documents and messages are brought up to date
    python -m tools.i18n --begin DOCUMENT ...    # the same, with empty catalogues for these documents
    python -m tools.i18n --check    # lists what --write would change, and what translations have lost
    python -m tools.i18n --status    # counts what is translated, and lists departures from the glossary

i18n/README.md is what translators read.
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools import catalogues, documents, markup, messages
from tools.files import ROOT, write_bytes
from tools.notebooks import FOLDERS

KINDS = ("md", "ipynb")


@dataclass(frozen=True)
class Job:
    """One document, or the messages of the package, in one language: what it holds, and its catalogue."""

    name: str
    language: str
    units: list
    path: Path
    begun: bool

    def catalogue(self):
        """Return the catalogue as it stands."""
        return catalogues.read(self.path, self.language)

    def merged(self):
        """Return the catalogue as the English text asks for it."""
        return catalogues.merge(self.catalogue(), self.units)


def main(argv=None):
    """Write, check or count; return 1 if something is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write catalogues, translations and messages")
    action.add_argument("--begin", nargs="+", metavar="DOCUMENT", help="begin to translate these documents")
    action.add_argument("--check", action="store_true", help="list what is wrong, change nothing")
    action.add_argument("--status", action="store_true", help="count what is translated, change nothing")
    parser.add_argument("--language", help="with --begin: one language (default: all)")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.status:
        return status(options.root)
    if options.check:
        return report(problems(options.root), behind(options.root))
    for name in options.begin or []:
        begin(options.root, name, options.language)
    changed = write(options.root)
    print(f"{len(changed)} files written" + "".join(f"\n  {name}" for name in changed))
    return report(damages(options.root), [])


def jobs(root):
    """Return all there is to translate, document by document, begun or not."""
    course, found = documents.course_at(root), []
    texts = {name: documents.units(course.text(name), name) for name in course.languages}
    for name, units in {messages.PACKAGE: messages.units(root), **texts}.items():
        for language in documents.others(course.table):
            path = root / catalogues.place(language, name)
            found.append(Job(name, language, units, path, path.exists()))
    return found


# --- writing --------------------------------------------------------------------------------------


def begin(root, name, language=None):
    """Make the catalogues of the document `name`, empty."""
    wanted = [job for job in jobs(root) if job.name == name and language in (None, job.language)]
    if not wanted:
        known = ", ".join(dict.fromkeys(f"{job.name} in {job.language}" for job in jobs(root)))
        sys.exit(f"{name} in {language or 'any language'} is nothing to translate; expected one of {known}")
    for job in wanted:
        catalogues.write(job.merged(), job.path)


def write(root):
    """Bring all catalogues up to date and write all that is made from them; return what has changed."""
    changed = []
    for job in jobs(root):
        if job.begun:
            before = job.path.read_bytes()
            catalogues.write(job.merged(), job.path)
            changed += [] if before == job.path.read_bytes() else [job.path.relative_to(root).as_posix()]
    for make in (english_documents, made_files):  # translations are made from what stands in English
        for name, content in make(root).items():
            if content != existing(root / name):
                write_bytes(content, root / name)
                changed.append(name)
    return changed


def existing(path):
    """Return the bytes of the file `path`, or None."""
    return path.read_bytes() if path.is_file() else None


def english_documents(root):
    """Return what the English documents must be: name -> bytes."""
    course = documents.course_at(root)
    return {name: documents.english(course, name).encode() for name in course.languages}


def made_files(root):
    """Return all that is made from catalogues: name -> bytes."""
    course, made = documents.course_at(root), {}
    for name, languages in course.languages.items():
        for language in languages:
            text = documents.translation(course, name, language)
            made[documents.translated_name(name, language)] = text.encode()
    begun = [job.language for job in jobs(root) if job.name == messages.PACKAGE and job.begun]
    return made | dict(messages.compiled(root, language) for language in begun)


# --- checking -------------------------------------------------------------------------------------


def report(found, notes):
    """Print the problems and the notes; return the exit status."""
    print("".join(f"{note}\n" for note in notes), end="")
    print("".join(f"{problem}\n" for problem in found), end="")
    return 1 if found else 0


def problems(root):
    """Return what is not as `write` would leave it, and what translations have lost or added."""
    found = []
    for job in jobs(root):
        if job.begun and not catalogues.same(job.merged(), job.catalogue()):
            found.append(f"{job.path.relative_to(root)} is not of {job.name} as it stands: make i18n")
    expected = english_documents(root)
    found += [f"{name}: its list of languages is not right: make i18n" for name in wrong(root, expected)]
    made = made_files(root)
    found += [f"{name} does not match its source and its catalogue: make i18n" for name in wrong(root, made)]
    found += [f"{name} has no source or no catalogue: remove it" for name in strays(root, made)]
    return found + damages(root)


def wrong(root, files):
    """Return those of the `files` that are missing or stand otherwise."""
    return [name for name, content in files.items() if existing(root / name) != content]


def strays(root, made):
    """Return the files among translations that nothing has made, and the catalogues of nothing."""
    languages = documents.others(documents.course_at(root).table)
    patterns = [f"README.{one}.md" for one in languages] + [f"{messages.PACKAGE}/locale/**/*.mo"]
    patterns += [f"{folder}/{one}/*.{kind}" for folder in FOLDERS for one in languages for kind in KINDS]
    found = {path for pattern in patterns for path in root.glob(pattern)} - {root / name for name in made}
    found |= set((root / catalogues.FOLDER).rglob("*.po")) - {job.path for job in jobs(root)}
    return sorted(path.relative_to(root).as_posix() for path in found)


def damages(root):
    """Return what the translations in use have lost or added."""
    found = []
    for job in jobs(root):
        differences = messages.differences if job.name == messages.PACKAGE else markup.differences
        for entry in filter(catalogues.done, job.catalogue()):
            place = f"{job.path.relative_to(root)}, {shortened(entry)}"
            found += [f"{place}: {difference}" for difference in differences(entry.msgid, entry.msgstr)]
    return found


def shortened(entry):
    """Return how a message names `entry`: its cell, or how its text begins."""
    return f"cell {entry.msgctxt}" if entry.msgctxt else f'"{" ".join(entry.msgid.split())[:40]}"'


# --- counting -------------------------------------------------------------------------------------


def counts(job):
    """Return (done, fuzzy, missing): how many texts of `job` are in each state."""
    entries = [entry for entry in job.merged() if not entry.obsolete]
    done, fuzzy = sum(map(catalogues.done, entries)), sum(entry.fuzzy for entry in entries)
    return done, fuzzy, len(entries) - done - fuzzy


def behind(root):
    """Return a note for each translation that is begun and not finished."""
    found = []
    for job in filter(lambda job: job.begun, jobs(root)):
        _, fuzzy, missing = counts(job)
        if fuzzy or missing:
            found.append(f"note: {job.name} in {job.language}: {fuzzy} fuzzy, {missing} missing")
    return found


def status(root):
    """Print how much of each document is translated, then where the glossary is not followed."""
    all_jobs = jobs(root)
    width = max(len(job.name) for job in all_jobs)
    print(f"{'document':<{width}}  language   done  fuzzy  missing")
    for job in all_jobs:
        columns = "".join(f"{count:>7}" for count in counts(job))
        print(f"{job.name:<{width}}  {job.language:<8}{columns}" + ("" if job.begun else "   not begun"))
    print("".join(f"\n{job.language}, {note}" for job in all_jobs for note in departures(root, job)))
    return 0


def departures(root, job):
    """Return where a translation has another word than the glossary's for one of its terms."""
    terms, found = glossary(root, job.language), []
    for entry in filter(catalogues.done, job.catalogue()):
        english = markup.prose(entry.msgid)
        for term, words in terms.items():
            used = re.compile(rf"\b{re.escape(term)}s?\b", re.IGNORECASE)
            kept = used.search(entry.msgstr)  # as in the title of a paper
            if used.search(english) and not kept and not any(word in entry.msgstr for word in words):
                place = f"{job.name}, {shortened(entry)}"
                found.append(f"{place}: {term} is {' or '.join(words)} in the glossary")
    return found


def glossary(root, language):
    """Return the glossary of `language`: English term -> its words."""
    path = root / catalogues.FOLDER / language / "glossary.csv"
    if not path.exists():
        return {}
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {row["en"]: row[language].split(" / ") for row in rows}


if __name__ == "__main__":
    sys.exit(main())
