"""The documents that are translated: what catalogues hold of them, and how a translation is put together."""

import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from tools import catalogues, links, markup
from tools.files import notebook_text
from tools.notebooks import FOLDERS

ENGLISH = "en"
FILE = r"\S+\.(?:md|ipynb)"
SWITCH = re.compile(rf"(<!-- languages: ({FILE}) -->\n?)(.*?)(<!-- /languages -->)", re.DOTALL)
LEFT_OUT = re.compile(rf"<!-- (launch|languages) ({FILE}) -->")  # no colon: nothing is to be written there
ON_ITS_OWN = re.compile(r"^(<!-- launch: \S+ -->)(<!-- /launch -->)$", re.MULTILINE)
LAUNCHED = re.compile(r"(?<=<!-- launch: )\S+(?= -->)")
TITLE = re.compile(r"^# .*$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
FOLDED = {"```": "```", "<details": "</details>"}  # blocks that no blank line ends: how they begin and end


@dataclass(frozen=True)
class Course:
    """Where the course lies, its table, and for each document the languages that it is translated into."""

    root: Path
    table: dict
    languages: dict

    def text(self, name):
        """Return the English document `name`."""
        return (self.root / name).read_text(encoding="utf-8")

    def translations(self, name, language):
        """Return the translations of the document `name` that hold: (context, text) -> translation."""
        catalogue = catalogues.read(self.root / catalogues.place(language, name), language)
        return {catalogues.key(entry): entry.msgstr for entry in catalogue if catalogues.done(entry)}


def course_at(root):
    """Return the course that lies at `root`."""
    table, begun = links.load(root), {}
    for name in names(root):
        catalogue = {language: root / catalogues.place(language, name) for language in others(table)}
        begun[name] = [language for language, path in catalogue.items() if path.exists()]
    return Course(root, table, begun)


def names(root):
    """Return the names of the English documents, the READMEs first."""
    patterns = ["README.md", *(f"{folder}/{end}" for end in ("README.md", "*.ipynb") for folder in FOLDERS)]
    return [path.relative_to(root).as_posix() for pattern in patterns for path in sorted(root.glob(pattern))]


def others(table):
    """Return the languages other than English."""
    return [language for language in table["languages"] if language != ENGLISH]


def translated_name(name, language):
    """Return where a document stands in `language`: unit1/ja/README.md, and README.ja.md at the top."""
    folder, file = posixpath.split(name)
    if language == ENGLISH:
        return name
    return f"{folder}/{language}/{file}" if folder else f"{Path(file).stem}.{language}{Path(file).suffix}"


# --- what a catalogue holds -----------------------------------------------------------------------


def units(text, name):
    """Return what there is to translate: pairs (id of the cell, its text) or, in a README, (None, block)."""
    return [unit for unit in all_units(text, name) if markup.has_words(unit[1])]


def all_units(text, name):
    """Return all Markdown cells of a notebook, or all blocks of a README, as such pairs."""
    if not name.endswith(".ipynb"):
        return [(None, block) for block in blocks(neutral(text, name))]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return [(cell["id"], neutral("".join(cell["source"]), name)) for cell in cells]


def blocks(text):
    """Return the blocks of a README: what blank lines divide, fenced code and folded text in one piece."""
    found, end = [], None
    for block in re.split(r"\n{2,}", text.strip("\n")):
        if end:
            found[-1] += f"\n\n{block}"
        else:
            found.append(block)
            end = next((FOLDED[start] for start in FOLDED if block.startswith(start)), None)
        if end and found[-1].endswith(end) and found[-1] != end:
            end = None
    return found


def neutral(text, name):
    """Return `text` as catalogues hold it: without the links that tools write."""
    text = SWITCH.sub(r"<!-- languages \2 -->", without_switch(text, name))
    return links.BLOCK.sub(r"<!-- launch \2 -->", text)


def without_switch(text, name):
    """Return `text` without the list of the languages of the document itself."""
    own = rf"\n\n<!-- languages: {re.escape(name)} -->.*?<!-- /languages -->"
    return re.sub(own, "", text, flags=re.DOTALL)


# --- how a translation is put together ------------------------------------------------------------


def translation(course, name, language):
    """Return the text of the document `name` in `language`; where its catalogue is behind, in English."""
    done = course.translations(name, language)
    note = f"> {course.table['languages'][language]['behind']}"
    if name.endswith(".ipynb"):
        return translated_notebook(course, name, language, done, note)
    shown, noted = [], False
    for unit in all_units(course.text(name), name):
        behind = is_behind(unit, done)
        shown += [note] if behind and not noted else []  # one for all blocks that follow
        shown.append(done.get(unit, unit[1]))
        noted = behind or (noted and unit not in done)
    return finished("\n\n".join(shown) + "\n", course, name, language)


def is_behind(unit, done):
    """Return whether `unit` should have a translation and is not among those that are `done`."""
    return unit not in done and markup.has_words(unit[1])


def translated_notebook(course, name, language, done, note):
    """Return the notebook with its Markdown translated; all the rest is byte for byte the English one's."""
    notebook = json.loads(course.text(name))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for number, (cell, unit) in enumerate(zip(cells, all_units(course.text(name), name), strict=True)):
        text = f"{note}\n\n{unit[1]}" if is_behind(unit, done) else done.get(unit, unit[1])
        cell["source"] = finished(text, course, name, language, top=not number).splitlines(keepends=True)
    return notebook_text(notebook)


def finished(text, course, name, language, top=True):
    """Return translated `text` with its links as they must be where it stands."""
    text = markup.retarget(text, lambda target: retargeted(target, course, name, language))
    text = LEFT_OUT.sub(r"<!-- \1: \2 --><!-- /\1 -->", text)
    text = ON_ITS_OWN.sub(r"\1\n\2", text)
    text = LAUNCHED.sub(lambda path: in_language(path[0], course, language), text)
    return links.rewritten(with_switches(text, course, name, language, top), course.table)


def in_language(name, course, language):
    """Return where `name` stands in `language`, or `name` itself where it is not translated."""
    return translated_name(name, language) if language in course.languages.get(name, ()) else name


def retargeted(target, course, name, language):
    """Return the target of a link of the document `name` as it must be in the translation."""
    if ELSEWHERE.match(target):
        return target
    path, hash_sign, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(path))) if path else name
    if anchor and language in course.languages.get(there, ()):
        anchor = translated_anchors(course, there, language).get(anchor, anchor)
    if path:
        here = posixpath.dirname(translated_name(name, language)) or "."
        slash = "/" if path.endswith("/") else ""
        path = quote(posixpath.relpath(in_language(there, course, language), here)) + slash
    return path + hash_sign + anchor


def translated_anchors(course, name, language):
    """Return the anchor of each heading of the document `name` in `language`, by the English one's."""
    done, all_of_it = course.translations(name, language), all_units(course.text(name), name)
    before = markup.anchors("\n\n".join(text for _, text in all_of_it))
    after = markup.anchors("\n\n".join(done.get(unit, unit[1]) for unit in all_of_it))
    return dict(zip(before, after, strict=False))  # where headings are lost, differences() says so


# --- the list of languages ------------------------------------------------------------------------


def with_switches(text, course, name, language, top):
    """Return `text` with its lists of languages; at the `top`, the document's own stands below its title."""
    if top and course.languages[name]:
        own = f"<!-- languages: {name} -->\n<!-- /languages -->"  # behind a comment no link is one
        if name.endswith(".ipynb") and language != ENGLISH:
            own += "\n\n" + course.table["languages"][language]["messages"]
        text = TITLE.sub(lambda title: f"{title[0]}\n\n{own}", text, count=1)
    return SWITCH.sub(lambda found: found[1] + switch(course, found[2], name, language) + found[4], text)


def switch(course, listed, name, language):
    """Return the languages of the document `listed`, as links from the document `name` in `language`."""
    shown, here = [], posixpath.dirname(translated_name(name, language)) or "."
    for each in (ENGLISH, *course.languages.get(listed, ())):
        word = course.table["languages"][each]["name"]
        target = quote(posixpath.relpath(translated_name(listed, each), here))
        shown.append(word if (listed, each) == (name, language) else f"[{word}]({target})")
    return " · ".join(shown)


def english(course, name):
    """Return the English document `name` with the lists of languages as they must be."""
    text, notebook = course.text(name), name.endswith(".ipynb")
    first = links.first_markdown(course.root / name) if notebook else text

    def listed(source):
        return with_switches(without_switch(source, name), course, name, ENGLISH, top=source == first)

    return links.changed_notebook(text, listed) if notebook else listed(text)
