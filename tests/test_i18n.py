"""Translations: what catalogues keep, what is written from them, and what is found wrong."""

import ast
import json
import re
import shutil
import subprocess
import sys
import types
import unicodedata
from pathlib import Path

import polib
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import check, data, diffusion, explore, hosting
from course_utils import messages as spoken
from course_utils.explore import score
from tests.test_check import GARBAGE, checks
from tools import catalogues, documents, hygiene, i18n, links, markup, messages, notebooks, run_notebooks
from tools.files import notebook_text

NOTEBOOK, UNIT = "unit1/toy.ipynb", "unit1/README.md"
JA = "unit1/ja/toy.ipynb"


# --- what a translation must keep -----------------------------------------------------------------

SOURCE = """### A step of `add_noise`

*Easy, 3 minutes.* With $t = 500$ (Ho et al. 2020, eq. 4), **half** is left; see
[the paper](https://arxiv.org/abs/2006.11239) and ![a wing](figures/wing.png):

$$x_t = \\sqrt{\\bar\\alpha_t}\\;x_0$$

- one
- two

<details><summary>Hint 1</summary>

```python
x = 1  # the signal
```
</details>"""

KEPT = {
    "a comment in code": ("# the signal", "# シグナル"),
    "alt text": ("![a wing]", "![羽]"),
    "the text of a link": ("[the paper]", "[論文]"),
    "a summary": ("Hint 1", "ヒント 1"),
    "words": ("is left; see\n", "が残ります。参照: "),
    "bold before a space": ("**half** is", "**半分** が"),
    "a number for a word": ("- two", "- 2"),
    "a second mention": ("- one", "- `add_noise`"),
}

LOST = {
    "has lost the equation $t = 500$": ("$t = 500$", "$t=500$"),
    "has lost the equation $$x_t": ("$$x_t", "$$x"),
    "has lost the code add_noise": ("`add_noise`", "add_noise"),
    "has lost the code x = 1": ("x = 1 ", "x = 2 "),
    "has added the code y": ("- two", "- `y`"),
    "has lost the link https://arxiv.org/abs/2006.11239": ("2006.11239", "2006.11293"),
    "has lost the picture figures/wing.png": ("wing.png", "羽.png"),
    "has lost the HTML </details>": ("</details>", ""),
    "has lost the HTML <summary>": ("<summary>Hint 1</summary>", "Hint 1"),
    "has lost the heading ###": ("### A", "## A"),
    "has lost the list item": ("- two", "two"),
    "has lost the number 2020": ("2020", "2002"),
    "has lost the number 3": ("3 minutes", "three minutes"),
    "shows a * as a star": ("**half** is", "**「半分」**が"),
    "breaks a line": ("is left; see\n", "が残り\n残る"),
}


@pytest.mark.parametrize("what", KEPT)
def test_a_translation_may_change(what):
    old, new = KEPT[what]
    assert old in SOURCE and markup.differences(SOURCE, SOURCE.replace(old, new)) == []


@pytest.mark.parametrize("told", LOST)
def test_a_translation_must_not_lose(told):
    old, new = LOST[told]
    assert old in SOURCE and told in "\n".join(markup.differences(SOURCE, SOURCE.replace(old, new)))


def test_a_lost_cell_of_a_table_is_found():
    table = "| a | b |\n|---|---|\n| c | d |"
    assert markup.differences(table, table.replace("c", "e")) == []
    assert "cell of a table" in markup.differences(table, "| a | b |\n|---|---|")[0]


def test_only_text_with_words_is_translated():
    assert markup.has_words("**Why?**") and markup.has_words("![a wing](x.png)")
    assert markup.has_words("    make lab  # opens it")
    for text in (
        "    make lab",
        "```\nmake lab\n```",
        "$$x_t$$",
        "---",
        "`x`",
        "<!-- launch unit1/a.ipynb -->",
    ):
        assert not markup.has_words(text), text


def test_anchors_are_those_of_github():
    text = (
        "# What's `make`?\n\n## A, b\n\n```\n# no heading\n```\n\n## A b\n\n## 拡散 モデル\n\n## [A](x) *b*"
    )
    assert markup.anchors(text) == ["whats-make", "a-b", "a-b-1", "拡散-モデル", "a-b-2"]


# --- catalogues -----------------------------------------------------------------------------------


def entries(*rows):
    """Return a catalogue of rows (context, text, translation, and from what it was made, if not that)."""
    catalogue = polib.POFile()
    for context, text, translation, *previous in rows:
        entry = polib.POEntry(msgctxt=context, msgid=text, msgstr=translation)
        if previous:
            entry.flags, entry.previous_msgid = ["fuzzy"], previous[0]
        catalogue.append(entry)
    return catalogue


def states(catalogue):
    """Return text -> (translation, whether it holds) of a catalogue, without obsolete entries."""
    return {e.msgid: (e.msgstr, catalogues.done(e)) for e in catalogue if not e.obsolete}


def test_a_changed_cell_turns_fuzzy_and_holds_again_when_the_change_is_undone():
    merged = catalogues.merge(entries(("a", "old", "訳")), [("a", "quite another text")])
    assert states(merged) == {"quite another text": ("訳", False)} and merged[0].previous_msgid == "old"
    again = catalogues.merge(merged, [("a", "a third one")])
    assert again[0].previous_msgid == "old", "it was made from the first one still"
    assert states(catalogues.merge(again, [("a", "old")])) == {"old": ("訳", True)}


def test_a_cell_with_a_new_id_or_place_keeps_its_translation():
    old = entries(("a", "one", "一"), ("b", "two", "二"))
    merged = catalogues.merge(old, [("c", "two"), ("a", "one")])
    assert [catalogues.key(entry) for entry in merged] == [("c", "two"), ("a", "one")]
    assert states(merged) == {"one": ("一", True), "two": ("二", True)}


def test_a_block_finds_its_translation_by_its_text():
    text = "A classifier looks at a picture and says what it is."
    old = entries((None, text, "訳"), (None, "Nothing like it", "別"))
    merged = catalogues.merge(
        old, [(None, text.replace("looks", "stares")), (None, "Completely new words here")]
    )
    assert [(entry.msgstr, entry.fuzzy) for entry in merged][:2] == [("訳", True), ("", False)]
    assert [entry.msgstr for entry in merged if entry.obsolete] == ["別"]
    assert states(catalogues.merge(merged, [(None, "Nothing like it")]))["Nothing like it"] == ("別", True)


def test_marks_and_comments_of_translators_stay(tmp_path):
    catalogue = entries(("a", "one", "一"))
    catalogue[0].flags, catalogue[0].tcomment = ["fuzzy"], "is this the usual word?"
    catalogue.metadata = {**catalogues.HEADER, "Language": "ja", "Last-Translator": "Ada"}
    path = tmp_path / "a.po"
    catalogues.write(catalogue, path)
    for _ in range(2):
        catalogues.write(catalogues.merge(catalogues.read(path, "ja"), [("a", "one")]), path)
    read = catalogues.read(path, "ja")
    assert read[0].fuzzy and read[0].tcomment == "is this the usual word?"
    assert read.metadata["Last-Translator"] == "Ada"
    assert catalogues.same(read, catalogue)


def test_a_catalogue_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "a.po").write_text('msgid "one"\nnonsense\n')
    with pytest.raises(SystemExit, match="not a readable catalogue .*mend that line"):
        catalogues.read(tmp_path / "a.po", "ja")


def test_blocks_keep_code_and_folded_text_in_one_piece():
    folded = "<details><summary>H</summary>\n\nt\n\n</details>"
    text = f"# T\n\na\nb\n\n```\nx\n\ny\n```\n\n{folded}\n\n    make lab\n"
    found = documents.blocks(text)
    assert len(found) == 5 and "\n\n".join(found) + "\n" == text
    for name in ("README.md", "unit1/README.md"):
        text = documents.without_switch((notebooks.ROOT / name).read_text(encoding="utf-8"), name)
        assert "\n\n".join(documents.blocks(text)) + "\n" == text


# --- a whole course -------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path):
    """A small course: two READMEs, a notebook, a picture, a package with one message, no translation."""
    for folder in ("tools", "unit1/figures", "course_utils"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(links.ROOT / links.TABLE, tmp_path / links.TABLE)
    (tmp_path / "unit1/figures/wing.png").write_bytes(b"")
    (tmp_path / "course_utils/hosting.py").write_text('tr("{minutes:g} minutes", minutes=3)\n')
    launch = f"<!-- launch: {NOTEBOOK} --> <!-- /launch -->"
    languages = f"<!-- languages: {NOTEBOOK} --><!-- /languages -->"
    (tmp_path / "README.md").write_text(
        f"# Course\n\nSee [unit 1]({UNIT}) and [below](#what-next).\n\n"
        f"| x | {launch} | {languages} |\n|---|---|---|\n\n"
        f"## What next\n\nSee [the end]({UNIT}#the-end) and [its file](tools/course.json).\n"
    )
    (tmp_path / UNIT).write_text(
        "# Unit\n\n![a wing](figures/wing.png)\n\n## The end\n\nUp to [the course](../README.md).\n"
    )
    cells = [
        new_markdown_cell(f"# Toy\n\n{launch.replace('> <', '>' + chr(10) + '<')}", id="title"),
        new_code_cell("1 + 1", id="sum", execution_count=1),
        new_markdown_cell("See [the unit](README.md): $x_0$.\n\n![a wing](figures/wing.png)", id="text"),
        new_markdown_cell("$$x_t$$", id="equation"),
    ]
    cells[1].outputs = [new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
    notebooks.write(notebooks.clean(new_notebook(cells=cells)), tmp_path / NOTEBOOK)
    links.main(["--write", "--root", str(tmp_path)])
    return tmp_path


def run(root, *arguments):
    return i18n.main([*arguments, "--root", str(root)])


def read(root, name):
    return (root / name).read_text(encoding="utf-8")


def translate(root, name, language):
    """Fill the catalogue of `name`: each text becomes 訳 and itself."""
    path = root / catalogues.place(language, name)
    catalogue = catalogues.read(path, language)
    for entry in catalogue:
        entry.msgstr = re.sub(r"^([^\w{]*)", r"\1訳 ", entry.msgid, count=1)
    catalogues.write(catalogue, path)


def replace(root, name, old, new):
    text = read(root, name)
    assert old in text
    (root / name).write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def translated(course, capsys):
    """The same course, translated into Japanese; the README into Korean as well."""
    assert run(course, "--begin", "README.md", UNIT, NOTEBOOK, "course_utils", "--language", "ja") == 0
    assert run(course, "--begin", "README.md", "--language", "ko") == 0
    for name in ("README.md", UNIT, NOTEBOOK, "course_utils"):
        translate(course, name, "ja")
    translate(course, "README.md", "ko")
    assert run(course, "--write") == 0
    assert run(course, "--check") == 0
    capsys.readouterr()
    return course


def test_what_is_begun_stands_in_english_with_a_note(course, capsys):
    assert run(course, "--begin", UNIT, NOTEBOOK, "--language", "ja") == 0
    note = links.load(course)["languages"]["ja"]["behind"]
    assert read(course, "unit1/ja/README.md").count(note) == 1, (
        "one note for the blocks that follow each other"
    )
    sources = ["".join(cell["source"]) for cell in json.loads(read(course, JA))["cells"]]
    assert [note in source for source in sources] == [True, False, True, False]
    capsys.readouterr()
    assert run(course, "--check") == 0
    assert f"note: {NOTEBOOK} in ja: 0 fuzzy, 2 missing" in capsys.readouterr().out
    run(course, "--status")
    lines = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert [NOTEBOOK, "ja", "0", "0", "2"] in lines and [NOTEBOOK, "ko", "0", "0", "2", "not begun"] in lines


def test_a_translated_notebook_differs_in_its_markdown_only(translated):
    english, japanese = (json.loads(read(translated, name)) for name in (NOTEBOOK, JA))
    for before, after in zip(english["cells"], japanese["cells"], strict=True):
        if before["cell_type"] == "code":
            assert json.dumps(before) == json.dumps(after)
        assert {**before, "source": ""} == {**after, "source": ""}
    assert {**english, "cells": []} == {**japanese, "cells": []}
    assert "訳" in "".join(japanese["cells"][2]["source"])
    assert japanese["cells"][3] == english["cells"][3]
    assert read(translated, JA) == notebook_text(japanese)


def test_links_go_to_the_same_language_and_keep_working(translated):
    top, unit, toy = (read(translated, name) for name in ("README.ja.md", "unit1/ja/README.md", JA))
    assert "](unit1/ja/README.md)" in top and "](unit1/ja/README.md#訳-the-end)" in top
    assert "](#訳-what-next)" in top and "](tools/course.json)" in top
    assert "](../figures/wing.png)" in unit and "](../../README.ja.md)" in unit
    assert "](README.md)" in toy and "](../figures/wing.png)" in toy
    assert "](unit1/README.md)" in read(translated, "README.ko.md"), "not translated into Korean"
    assert hygiene.readme_problems(translated) == []
    for name in (JA, NOTEBOOK):
        cells = notebooks.read(translated / name).cells
        assert hygiene.link_problems(cells, (translated / name).parent) == []


def test_launch_links_open_the_translation_in_its_language(translated):
    assert links.main(["--check", "--root", str(translated)]) == 0
    phrase = links.load(translated)["languages"]["ja"]["launch"].split("{gpu}")[1].split("{cpu}")[0]
    for name in (JA, "README.ja.md"):
        assert f"<!-- launch: {JA} -->" in read(translated, name)
        assert f"blob/main/{JA}" in read(translated, name) and phrase in read(translated, name)
    assert f"<!-- launch: {NOTEBOOK} -->" in read(translated, "README.ko.md")


def test_moving_the_course_moves_its_translations(translated):
    replace(
        translated, UNIT, "Up to", "    git clone https://" + "github.com/your_name/diffusion-course\n\nUp to"
    )
    run(translated, "--write")
    links.main(["--repository", "ada/diffusion", "--branch", "stable", "--root", str(translated)])
    assert run(translated, "--check") == 0
    assert "your_name" not in read(translated, JA) + read(translated, "unit1/ja/README.md")


def test_each_document_links_to_its_siblings(translated):
    assert "·" in read(translated, NOTEBOOK) and "[日本語](ja/toy.ipynb)" in read(translated, NOTEBOOK)
    assert "[English](../toy.ipynb) · 日本語<!--" in read(translated, JA)
    assert "English · [日本語](README.ja.md) · [한국어](README.ko.md)" in read(translated, "README.md")
    assert "[English](README.md) · [日本語](README.ja.md) · 한국어" in read(translated, "README.ko.md")
    row = "[English](unit1/toy.ipynb) · [日本語](unit1/ja/toy.ipynb)"
    assert row in read(translated, "README.md") and row in read(translated, "README.ja.md")
    assert "COURSE_LANG=ja" in read(translated, JA) and "COURSE_LANG" not in read(translated, NOTEBOOK)


def test_writing_twice_changes_nothing(translated, capsys):
    run(translated, "--write")
    assert capsys.readouterr().out.startswith("0 files written")


def test_a_changed_text_is_found_shown_in_english_and_reported(translated, capsys):
    replace(translated, NOTEBOOK, "See [the unit]", "Look at [the unit]")
    assert run(translated, "--check") == 1
    said = capsys.readouterr().out
    assert f"i18n/ja/unit1/toy.po is not of {NOTEBOOK} as it stands: make i18n" in said
    assert f"{JA} does not match its source and its catalogue: make i18n" in said
    assert run(translated, "--write") == 0
    text = "".join(json.loads(read(translated, JA))["cells"][2]["source"])
    assert text.startswith("> " + links.load(translated)["languages"]["ja"]["behind"])
    assert "Look at [the unit](README.md)" in text and "../figures/wing.png" in text
    capsys.readouterr()
    assert run(translated, "--check") == 0
    assert f"note: {NOTEBOOK} in ja: 1 fuzzy, 0 missing" in capsys.readouterr().out
    run(translated, "--status")
    assert re.search(rf"{NOTEBOOK} +ja +1 +1 +0\n", capsys.readouterr().out)


def test_new_outputs_in_english_are_asked_for_in_translations(translated, capsys):
    replace(translated, NOTEBOOK, '"2"', '"3"')
    assert run(translated, "--check") == 1
    assert "toy.po" not in capsys.readouterr().out, "no text has changed"
    run(translated, "--write")
    assert '"3"' in read(translated, JA) and run(translated, "--check") == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (JA, "訳", "手", f"{JA} does not match"),
        ("unit1/ja/README.md", "訳", "手", "unit1/ja/README.md does not match"),
        ("README.md", "[日本語]", "[japanese]", "README.md: its list of languages is not right"),
        ("i18n/ja/unit1/toy.po", "訳 See", "手 See", f"{JA} does not match"),
        ("i18n/ja/unit1/toy.po", '"訳 See [the unit](README.md)', '"$x$', "has lost the link README.md"),
        ("i18n/ja/course_utils.po", "{minutes:g} minutes", "{minutes} minutes", "is not of course_utils"),
        ("i18n/ja/course_utils.po", 'msgstr "訳 {minutes:g', 'msgstr "{minuten:g', "has lost {minutes:g}"),
        ("course_utils/hosting.py", "minutes", "hours", "course_utils as it stands"),
    ],
)
def test_what_does_not_match_is_found(translated, capsys, name, old, new, told):
    replace(translated, name, old, new)
    assert run(translated, "--check") == 1
    assert told in capsys.readouterr().out


def test_files_that_nothing_makes_are_found(translated, capsys):
    for name in ("unit1/ja/old.ipynb", "README.ko.md.po", "i18n/ja/unit1/old.po"):
        (translated / name).write_text("")
    (translated / "i18n/ko/README.po").unlink()
    assert run(translated, "--check") == 1
    said = capsys.readouterr().out
    for name in ("unit1/ja/old.ipynb", "i18n/ja/unit1/old.po", "README.ko.md"):
        assert f"{name} has no source or no catalogue: remove it" in said


def test_an_unknown_document_is_one_sentence(course):
    with pytest.raises(SystemExit, match="unit9.* is nothing to translate; expected one of course_utils"):
        run(course, "--begin", "unit9/README.md")


def test_departures_from_the_glossary_are_listed(translated, capsys):
    (translated / "i18n/ja/glossary.csv").write_text(
        "en,ja,note\nwing,羽 / つばさ,\nunit,ユニット,\n", encoding="utf-8"
    )
    run(translated, "--status")
    assert f'ja, {UNIT}, "# Unit": unit is ユニット' not in capsys.readouterr().out, (
        "the English word was kept"
    )
    replace(translated, "i18n/ja/unit1/README.po", '訳 Unit"', '課"')
    replace(translated, "i18n/ja/unit1/README.po", "訳 a wing", "つばさ")
    run(translated, "--status")
    said = capsys.readouterr().out
    assert f'ja, {UNIT}, "# Unit": unit is ユニット in the glossary' in said and "wing" not in said


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_the_glossaries_of_this_course_can_be_read(language):
    glossary = i18n.glossary(notebooks.ROOT, language)
    assert len(glossary) > 60 and all(word.strip() for words in glossary.values() for word in words)


@pytest.mark.parametrize("language", ["en", "ja", "ko"])
def test_hygiene_knows_hints_and_solutions_in_every_language(language):
    phrases = links.load()["languages"][language]
    titles = [f"{phrases['hint']} 1", f"{phrases['hint']} 2", phrases["solution"]]
    folded = "".join(f"<details><summary>{title}</summary>\n\ntext\n</details>\n" for title in titles)
    cells = [new_code_cell("check.answer(1)", metadata={"tags": ["exercise"]}), new_markdown_cell(folded)]
    assert hygiene.around_exercise(cells, 0) == []


# --- messages of the package ----------------------------------------------------------------------


@pytest.fixture
def no_language(monkeypatch):
    """COURSE_LANG and what tells the open notebook are not set, and what a test sets is undone."""
    for name in ("COURSE_LANG", "JPY_SESSION_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_messages_follow_the_language_and_fall_back_to_english(no_language, monkeypatch):
    message = "To change the scale, restart with COURSE_SCALE={other}."
    said = {}
    for language in ("", "en", "ja", "ko", "ja_JP", "xx"):
        monkeypatch.setenv("COURSE_LANG", language)
        said[language] = spoken.tr(message, other="full")
    english = message.format(other="full")
    assert said[""] == said["en"] == said["xx"] == english
    assert said["ja"] == said["ja_JP"] and len({said["ja"], said["ko"], english}) == 3
    assert all("COURSE_SCALE=full" in sentence for sentence in said.values())
    monkeypatch.setenv("COURSE_LANG", "ja")
    assert spoken.tr("no such message: {n:.2f}", n=1) == "no such message: 1.00"


def test_catalogues_are_read_when_something_is_said_first():
    code = "import sys; from course_utils import messages; print('gettext' in sys.modules, messages.tr('a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False a"


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_the_package_ships_the_catalogues_as_they_stand(language):
    name, content = messages.compiled(notebooks.ROOT, language)
    assert (notebooks.ROOT / name).read_bytes() == content
    text = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"**/*.mo"' in text


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("unit1/ja/toy.ipynb", "ja"),
        ("/somewhere/course/unit1/ko/toy.ipynb", "ko"),
        ("RTC:unit1/ja/toy.ipynb", "ja"),
        ("unit1\\ja\\toy.ipynb", "ja"),
        ("unit1/toy.ipynb", None),
        ("unit2/ja/toy.ipynb", None),
        ("ja/toy.ipynb", None),
    ],
)
def test_the_language_is_that_of_the_open_notebook(no_language, monkeypatch, path, language):
    monkeypatch.setenv("JPY_SESSION_NAME", path)
    spoken.follow("unit1/toy")
    assert spoken.os.environ.get("COURSE_LANG") == language
    monkeypatch.setenv("COURSE_LANG", "en")
    spoken.follow("unit1/toy")
    assert spoken.os.environ["COURSE_LANG"] == "en", "what the reader sets holds"


def shell(monkeypatch, module, **user_ns):
    kind = type("Shell", (), {"__module__": module, "user_ns": user_ns})
    monkeypatch.setattr("IPython.get_ipython", lambda: kind())


def test_vs_code_tells_the_open_notebook(no_language, monkeypatch):
    shell(monkeypatch, "ipykernel.zmqshell", __vsc_ipynb_file__="/home/ada/course/unit1/ko/toy.ipynb")
    spoken.follow("unit1/toy")
    assert spoken.os.environ["COURSE_LANG"] == "ko"


def test_colab_is_asked_for_the_notebook(no_language, monkeypatch, translated):
    notebook = json.loads(read(translated, JA))
    asked = []

    def blocking_request(*request, **_):
        asked.append(request)
        return {"ipynb": notebook}

    message = types.SimpleNamespace(blocking_request=blocking_request)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(_message=message))
    shell(monkeypatch, "ipykernel.zmqshell")
    spoken.follow("unit1/toy")
    assert asked == [] and "COURSE_LANG" not in spoken.os.environ, "elsewhere nobody would answer"
    shell(monkeypatch, "google.colab._shell")
    for answer, language in ((None, None), (json.loads(read(translated, NOTEBOOK)), None), (notebook, "ja")):
        notebook = answer
        spoken.follow("unit1/toy")
        assert spoken.os.environ.get("COURSE_LANG") == language


def test_fields_of_messages_are_compared():
    assert messages.differences("{a:g} of {b!r}", "{b!r} のうち {a:g}") == []
    assert messages.differences("{a:g} of {b!r}", "{b} のうち {a}") != []
    assert messages.differences("{a}", "{a} {c}") == ["has added {c}"]
    assert "broken braces" in messages.differences("{a}", "{a")[0]


# --- every sentence for a reader goes through tr() ------------------------------------------------

# calls that say something, as `raise` and `yield` do; controls do in their first argument
SAYS = re.compile(r"(print|right|wrong|because|compare|\w+Error)$")
CONTROLS = ("slider", "choice", "stops", "Button")
IN_ENGLISH = {
    "module {} has no attribute {}": "what Python itself says of a missing name, word for word",
    "must match the size": "looked for in what PyTorch has said",
    "shapes cannot be multiplied": "looked for in what PyTorch has said",
    "type ellipsis": "looked for in what Python has said",
    "a fish": "a prompt",
}


def untranslated(node, said=False):
    """Yield the sentences under a node that are said to a reader without tr(), fields as {}."""
    called = messages.called(node.func) if isinstance(node, ast.Call) else None
    if called == messages.FUNCTION:
        for keyword in node.keywords:
            yield from untranslated(keyword.value, True)
    elif isinstance(node, ast.JoinedStr | ast.Constant):
        text = literal(node)
        if said and re.search(r"[a-z]{2}.* .*[a-z]|[a-z] .*[a-z]{2}", text):
            yield text
        for value in ast.walk(node):
            if isinstance(value, ast.FormattedValue):
                yield from untranslated(value.value, said)
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # not a docstring
        if called in CONTROLS and literal(node.args[0]):
            yield literal(node.args[0])
        said = said or isinstance(node, ast.Raise | ast.Yield) or bool(SAYS.match(called or ""))
        said = said or isinstance(node, ast.FunctionDef) and node.name == "caveats"
        for child in ast.iter_child_nodes(node):
            yield from untranslated(child, said)


def literal(node):
    """Return the text of a string, with {} for the fields of an f-string; "" for any other node."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise ValueError(f'got {n} steps, expected 1')", ["got {} steps, expected 1"]),
        ("raise ValueError('got ' 'no steps')", ["got no steps"]),
        (
            "def f():\n    'Got no steps.'\n    return OSError('no steps' if n else 'no room')",
            ["no steps", "no room"],
        ),
        ("wrong('too many steps')", ["too many steps"]),
        ("def caveats():\n    found.append('one too many')", ["one too many"]),
        (
            "compare(got, wanted, 'all is well', {'the root is missing': x})",
            ["all is well", "the root is missing"],
        ),
        ("wrong(tr('for {part}: {why}', part='the step', why=f'it is {n}'))", ["the step", "it is {}"]),
        ("print(f'{name}: {told}', sep=', ')", []),
        ("slider('seed', 0, 9, 0)", ["seed"]),
        ("slider(tr('seed'), 0, 9, 0), choice(name, ['two moons'], 'two moons')", []),
        ("raise ValueError(tr('got {n} steps', n=n)) from error", []),
        ("ax.set_title('two moons')", []),
    ],
)
def test_sentences_without_a_translation_are_found(code, found):
    assert list(untranslated(ast.parse(code))) == found


def test_every_sentence_of_a_check_and_of_an_error_can_be_translated():
    kept = set()
    for path in sorted(Path(spoken.__file__).parent.rglob("*.py")):
        said = path.parent.name == "check"  # there, all sentences are said
        for sentence in untranslated(ast.parse(path.read_text(encoding="utf-8")), said):
            assert sentence in IN_ENGLISH, f"{path.name}: {sentence!r} does not go through tr()"
            kept.add(sentence)
    assert kept == set(IN_ENGLISH), "an exception that nothing needs"


def narrow(text):
    """A text in the letters of the fixture `wide`, in English."""
    return unicodedata.normalize("NFKC", text)


def in_both(monkeypatch, say):
    """What `say()` returns in English, and in the language that is set."""
    said = say()
    monkeypatch.setenv("COURSE_LANG", "en")
    return say(), said


def test_a_verdict_is_translated(wide):
    verdict = check.introduction.pixel_range(lambda images: images.float() / 255)
    cause = wide("this is [0, 1]: it must become 2 wide and be shifted")
    assert repr(verdict) == f"{wide('✗ Not yet:')} {cause}."
    stub = check.introduction.pixel_range(lambda images: ...)
    assert "ｎｏｔｈｉｎｇ ｃａｍｅ ｂａｃｋ: ｒｅｐｌａｃｅ ｔｈｅ `...`" in repr(stub)
    right = check.introduction.pixel_range(lambda images: images.float() / 127.5 - 1)
    assert right and repr(right) == wide("✓ Right: 0 becomes -1, 255 becomes 1, the shape stays.")


@pytest.mark.parametrize("function", list(checks()))
def test_every_check_finds_the_same_in_every_language(wide, monkeypatch, function):
    english, foreign = in_both(monkeypatch, lambda: [function(garbage) for garbage in GARBAGE])
    for here, there in zip(english, foreign, strict=True):
        assert not there and narrow(there.message) == narrow(here.message)
        ours = there.message.partition(wide("raised"))[0]  # what Python says of the reader's code is English
        assert not re.search(r"[a-z]{2,} [a-z]{2,}", ours), "a part of the sentence is not translated"


HINTED = {
    "no mean over the batch": lambda: check.finetuning.colour_loss(lambda x, colour: x.mean()),
    "its 4 cut-outs": lambda: check.finetuning.clip_loss(lambda seen, text, count: seen.mean(1)),
    "weight of another prediction": lambda: check.scratch.loss_weight(lambda a, prediction: a * 0 + 1),
    "for 'x0': got shape": lambda: check.scratch.loss_weight(lambda a, prediction: a[:2]),
    "reshape it to (B, 1, 1, 1)": lambda: check.scratch.add_noise(
        lambda x0, eps, t, a: a[t].sqrt()[:, None, None] * x0 + a[t, None] * eps
    ),
    "for the latents: got shape": lambda: check.dreambooth.collate(
        lambda subject, prior: (torch.stack([z for z, _ in subject]), torch.stack([s for _, s in subject]))
    ),
    "for a prompt of 4 tokens nothing came back": lambda: check.stable_diffusion.tokens(lambda *a: None),
}


@pytest.mark.parametrize("words", HINTED)
def test_hints_do_not_depend_on_the_language(wide, monkeypatch, words):
    english, foreign = in_both(monkeypatch, HINTED[words])
    assert words in english.message and words not in foreign.message
    assert narrow(foreign.message) == narrow(english.message)


def test_an_error_is_translated(wide, tmp_path):
    said = wide("got {steps} steps, expected 1 to {timesteps}: a step needs a timestep of its own.")
    with pytest.raises(ValueError, match=re.escape(said.format(steps=0, timesteps=9))):
        diffusion.spaced_timesteps(0, 9)
    with pytest.raises(ValueError, match=wide("expected one of")):
        diffusion.target(None, None, None, None, "x1")
    with pytest.raises(FileNotFoundError, match=wide("which does not exist")):
        data.folder(tmp_path / "nowhere")


def test_controls_are_translated_and_what_they_choose_is_not(wide):
    label, kind, seed = explore.score_map().children[0].children
    assert (label.description, seed.description) == (wide("noise level t"), wide("seed"))
    assert kind.value == "two moons" and kind.options == tuple(score.SETS)


def test_messages_are_plain_strings(course):
    assert messages.units(course) == [(None, "{minutes:g} minutes")]
    (course / "course_utils/more.py").write_text('x = 1\ntr(f"{x} steps")\n')
    with pytest.raises(
        SystemExit, match=r"more.py, line 2: tr\(\) got something computed, expected a plain string"
    ):
        messages.units(course)


# --- figures carry English labels: their font has no other letters --------------------------------

DRAWING = re.compile(
    r"(set_(title|[xyz]label|[xy]ticklabels|label|text)|(sup)?title|text|annotate|legend|plot|subplots)$"
)


def translated_drawings(tree):
    """Return the functions that draw and use tr() themselves."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.Lambda):
            calls = {messages.called(call.func) for call in own_nodes(function) if isinstance(call, ast.Call)}
            if messages.FUNCTION in calls and any(DRAWING.match(name or "") for name in calls):
                found.append(getattr(function, "name", "lambda"))
    return found


def own_nodes(function):
    """Yield the nodes of a function without those of functions inside it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def test_no_function_that_draws_translates():
    planted = "def draw(ax):\n    ax.set_title(tr('noise'))\n"
    planted += "def controls():\n    tr('noise')\n    def draw(ax):\n        ax.text('x')"
    assert translated_drawings(ast.parse(planted)) == ["draw"]
    for path in sorted(Path(spoken.__file__).parent.rglob("*.py")):
        assert translated_drawings(ast.parse(path.read_text(encoding="utf-8"))) == [], path


@pytest.mark.parametrize(("title", "ok"), [("noise", True), ("ノイズ", False)])
def test_a_letter_that_a_figure_cannot_show_fails_a_run(tmp_path, capsys, title, ok):
    pytest.importorskip("matplotlib", "3.8", reason="older ones draw nothing at all with today's IPython")
    from tests.test_tools import run_main, toy

    path = toy(tmp_path, "drawn", f"import matplotlib.pyplot as plt\nplt.title({title!r})\nplt.show()")
    assert run_main(tmp_path, path) == (0 if ok else 1)
    assert ok or "missing from font" in capsys.readouterr().out


def test_a_run_of_a_translated_notebook_speaks_its_language(tmp_path, monkeypatch):
    from tests.test_tools import run_main, toy

    said = "import os\nfrom course_utils import messages\nmessages.follow('unit1/toy')\n"
    path = toy(tmp_path, "toy", said + "assert os.environ['COURSE_LANG'] == 'ja'")
    monkeypatch.delenv("COURSE_LANG", raising=False)
    monkeypatch.setattr(notebooks, "short_name", lambda path: JA)
    assert run_main(tmp_path, path) == 0
    monkeypatch.setattr(notebooks, "short_name", lambda path: NOTEBOOK)
    assert run_main(tmp_path, path) == 1


def test_outputs_are_saved_in_english_only(monkeypatch):
    assert notebooks.saved_scale()["COURSE_LANG"] == "en"
    path = notebooks.ROOT / NOTEBOOK
    monkeypatch.setattr(notebooks, "find_notebooks", lambda names: [path])
    monkeypatch.setattr(notebooks, "find_translated", lambda: [path])
    with pytest.raises(SystemExit, match="outputs of a translated notebook are the English one's"):
        run_notebooks.main(["--save", str(path)])


def test_of_each_language_the_quickest_notebook_is_run(monkeypatch):
    names = [f"unit1/{language}/{number}.ipynb" for language in ("ja", "ko") for number in "123"]
    minutes = {"1": 3, "2": 1, "3": 2}
    costs = {f"unit1/{number}": {"mini": hosting.Cost(each, 1, 0)} for number, each in minutes.items()}
    monkeypatch.setattr(hosting, "COSTS", costs)
    monkeypatch.setattr(notebooks, "find_translated", lambda: [Path(name) for name in names])
    assert sorted(map(str, run_notebooks.quickest_translated())) == ["unit1/ja/2.ipynb", "unit1/ko/2.ipynb"]
