"""The reading edition: what tools.site writes, and what it is in a real browser."""

import functools
import json
import posixpath
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tools import browser, documents, hygiene, links, notebooks, run_notebooks, site

ROOT = site.ROOT
COURSE = documents.course_at(ROOT)
SHOWN = [  # (language, English name, where it stands, its page)
    (language, name, documents.translated_name(name, language), site.url(language, site.page_name(name)))
    for name, translations in COURSE.languages.items()
    for language in ("en", *translations)
]
LANGUAGES = sorted({shown[0] for shown in SHOWN})
NOTEBOOKS = [shown for shown in SHOWN if shown[1].endswith(".ipynb")]
INTRODUCTION = "unit1/01_introduction_to_diffusers.html"
ASKED = ("href", "src", "srcset", "action", "data", "poster", "style")
ASKED_BY_CSS = re.compile(r"(url\(\s*[\"']?|@import\s+[\"'])(https?:)?//")
INDEXED = {"en": "schedul", "ja": "拡散", "ko": "노이"}
QUERIES = {"en": "scheduler", "ja": "拡散モデル", "ko": "노이즈"}
WORDS = {"en": ("Search", "Previous"), "ja": ("検索", "前へ"), "ko": ("검색", "이전")}
PLANTED = (
    '<p style="color: #777; background: #888">grey on grey</p>'
    '<div style="width: 900px">too wide</div>'
    "<p>$\\alpha$ <math></math></p>"
)
CONTRAST = 4.5  # WCAG 2, level AA, text of any size

in_browser = pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)


@pytest.fixture(scope="session")
def edition(tmp_path_factory):
    target = tmp_path_factory.mktemp("edition") / "site"
    assert not site.build(ROOT, target), "Sphinx had warnings"
    return target


@pytest.fixture(scope="session")
def pages(edition):
    """The pages, parsed, by their address from the top of the site."""
    names = [path.relative_to(edition).as_posix() for path in sorted(edition.rglob("*.html"))]
    return {name: BeautifulSoup((edition / name).read_text("utf-8"), "html.parser") for name in names}


def there(target, name):
    """The page or file that `target`, on the page `name`, leads to, and the anchor in it."""
    parts = urlsplit(target)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
    return path if parts.path else name, unquote(parts.fragment)


def sources(path):
    """The Markdown of the document `path`: its text, or its Markdown cells."""
    if not path.endswith(".ipynb"):
        return (ROOT / path).read_text("utf-8")
    cells = notebooks.read(ROOT / path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def words(text):
    return run_notebooks.COLOURS.sub("", text).split()


def targets(page, *attributes):
    return [(tag.name, tag[one]) for one in attributes for tag in page.find_all(attrs={one: True})]


def switch(page):
    return page.select("nav.languages a")


# --- files ----------------------------------------------------------------------------------------


def test_each_document_is_a_page_in_its_language_with_its_title(pages):
    for language, _, path, page in SHOWN:
        title = documents.TITLE.search(sources(path))[0].removeprefix("# ").replace("`", "")
        assert pages[page].html["lang"] == language
        assert pages[page].article.h1.text.rstrip("¶") == title


def test_no_link_inside_leads_nowhere(edition, pages):
    ids = {name: {tag["id"] for tag in page.find_all(id=True)} for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for _, target in targets(page, "href", "src"):
            if documents.ELSEWHERE.match(target):
                continue
            path, anchor = there(target, name)
            if not (edition / path).is_file() or anchor and anchor not in ids[path]:
                broken.append((name, target))
    assert broken == []


def test_only_what_is_clicked_leads_to_another_host(edition, pages):
    asked = [
        (name, target)
        for name, page in pages.items()
        for tag, target in targets(page, *ASKED)
        if tag != "a" and re.search(r"(^|[\s(\"'])(https?:)?//", target)
    ]
    assert asked == []
    sheets = list(edition.rglob("*.css"))
    assert sheets and [path for path in sheets if ASKED_BY_CSS.search(path.read_text("utf-8"))] == []


def test_all_code_and_all_that_it_printed_is_shown_in_order(pages):
    for _, _, path, page in NOTEBOOKS:
        shown = iter([words(block.text) for block in pages[page].article.find_all("pre")])
        for cell in notebooks.read(ROOT / path).cells:
            if cell.cell_type == "code":
                printed = [output.text for output in cell.outputs if output.output_type == "stream"]
                texts = [text for text in [cell.source, *printed] if words(text)]
                assert [text for text in texts if words(text) not in shown] == [], page


def test_no_picture_is_lost_and_each_has_its_alt_text(pages):
    for language, _, path, page in NOTEBOOKS:
        outputs = [output for cell in notebooks.read(ROOT / path).cells for output in hygiene.shown(cell)]
        told = [metadata["alt"] for mime, metadata, _ in outputs if mime.startswith("image/")]
        alts = [picture["alt"] for picture in pages[page].article.find_all("img")]
        assert [alt for alt in alts if alt in told] == told, (language, page)
    for name, page in pages.items():
        assert [str(img) for img in page.find_all("img") if not img.get("alt", "").strip()] == [], name


def test_each_picture_can_be_opened_alone(pages):
    pictures = [picture for page in pages.values() for picture in page.article.find_all("img")]
    assert pictures and all(picture.parent.get("href") == picture["src"] for picture in pictures)


def test_hints_and_solutions_are_folded(pages):
    for _, _, path, page in NOTEBOOKS:
        folded = pages[page].article.find_all("details")
        summaries = [summary for summary, _ in hygiene.FOLDED.findall(sources(path))]
        assert [fold.summary.text for fold in folded] == summaries
        for fold in folded:
            assert not fold.has_attr("open")
            assert fold.find(["p", "pre"]) and not fold.find(["section", "details"]), fold.text


def test_the_index_of_each_language_finds_its_words(edition):
    for language in LANGUAGES:
        text = (edition / site.url(language, "searchindex")).with_suffix(".js").read_text("utf-8")
        index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
        found = [index[kind].get(INDEXED[language], []) for kind in ("terms", "titleterms")]
        places = [place for each in found for place in ([each] if isinstance(each, int) else each)]
        assert "unit1/01_introduction_to_diffusers" in [index["docnames"][place] for place in places]


def test_the_language_switch_leads_to_the_same_document_and_back(pages):
    for language, name, _, page in SHOWN:
        siblings = {link["hreflang"]: there(link["href"], page)[0] for link in switch(pages[page])}
        assert siblings == {key: shown for key, other, _, shown in SHOWN if other == name}
        current = [link["hreflang"] for link in switch(pages[page]) if link.get("aria-current")]
        assert current == [language]
    for name, page in pages.items():
        assert switch(page), name


def test_the_theme_speaks_the_language_of_the_page(pages):
    for language, _, _, page in NOTEBOOKS:
        assert pages[page].find("input", {"name": "q"})["placeholder"] == WORDS[language][0]
        assert pages[page].select_one(".prev-page .context").text.strip() == WORDS[language][1]


def test_a_link_to_a_script_leads_to_a_page_that_shows_it(pages):
    assert "train_unconditional.py.html" in [target for _, target in targets(pages[INTRODUCTION], "href")]
    shown = pages["unit1/train_unconditional.py.html"].article.pre.text
    assert shown.strip() == (ROOT / "unit1/train_unconditional.py").read_text("utf-8").strip()


def small_course(folder, text):
    """A course of one README, of which the body is `text`."""
    (folder / "tools").mkdir()
    shutil.copyfile(ROOT / links.TABLE, folder / links.TABLE)
    (folder / "README.md").write_text(f"# A small course\n\n{text}\n")
    return folder


@pytest.mark.parametrize("text", ["$$\\nosuch x$$", "```{nosuch}\n```"])
def test_a_warning_fails_the_build(text, tmp_path, capsys):
    assert site.build(small_course(tmp_path, text), tmp_path / "site")
    assert "nosuch" in capsys.readouterr().err


def test_a_well_made_course_gives_no_warning(tmp_path, capsys):
    text = "A [licence](LICENSE), $x_0$ and\n\n```python\nprint(1)\n```"
    (tmp_path / "LICENSE").write_text("Do with it what you like.\n")
    assert not site.build(small_course(tmp_path, text), tmp_path / "site")
    assert capsys.readouterr().err == ""
    assert "what you like" in (tmp_path / "site/LICENSE.html").read_text()


@pytest.mark.parametrize("text", ["[gone](gone.md)", "![gone](gone.png)", '<img src="gone.png" alt="gone">'])
def test_a_link_to_nothing_stops_the_build(text, tmp_path):
    with pytest.raises(SystemExit, match=r"README.md links to gone.\w+, which is no file"):
        site.build(small_course(tmp_path, text), tmp_path / "site")


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def address(edition):
    """The site on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=edition))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def chromium():
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture
def opened(chromium):
    """Opens a page at an address; in the end, nothing must have been asked of another host."""
    contexts, asked = [], []

    def opened(address, **settings):
        page, foreign = browser.new_page(chromium, **settings)
        page.add_init_script(path=Path(__file__).with_name("site.js"))
        contexts.append(page.context)
        asked.append(foreign)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for foreign in asked for url in foreign if not url.startswith("file:")] == []


@in_browser
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("name", ["index.html", INTRODUCTION, "unit1/train_unconditional.py.html"])
def test_all_text_stands_out(opened, address, name, scheme):
    page = opened(f"{address}/{name}", color_scheme=scheme)
    page.evaluate("edition.all('details').forEach((fold) => (fold.open = true))")
    dark = page.evaluate("edition.luminance(edition.behind(document.querySelector('article'))) < 0.1")
    assert dark == (scheme == "dark")
    assert page.evaluate(f"edition.faint({CONTRAST})") == []


@in_browser
def test_no_page_scrolls_to_the_side_on_a_narrow_screen(opened, address, pages):
    page = opened(f"{address}/index.html", viewport={"width": 400, "height": 800})
    for name in pages:
        page.goto(f"{address}/{name}")
        assert (name, page.evaluate("edition.wide()")) == (name, [0, []])


@in_browser
def test_equations_are_drawn_in_the_font_that_comes_along(opened, address):
    page = opened(f"{address}/index.html")
    for _, _, _, name in SHOWN:
        page.goto(f"{address}/{name}")
        assert (name, page.evaluate("edition.undrawn()")) == (name, [])
    page.goto(f"{address}/{INTRODUCTION}")
    assert page.locator("math").count() > 20
    page.evaluate("document.fonts.ready.then(() => true)")
    fonts = page.evaluate(
        "[...document.fonts].map((font) => [font.family.replaceAll('\"', ''), font.status])"
    )
    assert fonts == [["STIX Two Math", "loaded"]]


@in_browser
def test_each_planted_defect_is_found(opened, address):
    page = opened(f"{address}/{INTRODUCTION}", viewport={"width": 400, "height": 800})
    page.evaluate("html => document.querySelector('article').insertAdjacentHTML('beforeend', html)", PLANTED)
    assert [text for _, text in page.evaluate(f"edition.faint({CONTRAST})")] == ["grey on grey"]
    pixels, elements = page.evaluate("edition.wide()")
    assert pixels > 400 and ["wide" in element for element in elements] == [True]
    assert page.evaluate("edition.undrawn()") == ["", "$", "\\alpha", "$"]


@in_browser
def test_a_hint_shows_when_it_is_clicked(opened, address):
    page = opened(f"{address}/{INTRODUCTION}")
    fold = page.locator("details").first
    assert not fold.locator("p").first.is_visible()
    fold.locator("summary").click()
    assert fold.locator("p").first.is_visible()


@in_browser
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("served", [True, False], ids=["server", "file"])
def test_search_finds_what_there_is(opened, address, edition, language, served):
    page = opened(f"{address if served else edition.as_uri()}/{site.url(language, 'index')}")
    page.locator("input[name=q]").fill(QUERIES[language])
    page.keyboard.press("Enter")
    page.wait_for_selector(".search-summary:text-matches('\\\\d')")
    page.locator("#search-results a[href*='01_introduction_to_diffusers']").first.click()
    page.wait_for_url("**/01_introduction_to_diffusers.html*")
    assert QUERIES[language] in page.locator("article").inner_text()


@in_browser
def test_search_finds_nothing_where_there_is_nothing(opened, address):
    page = opened(f"{address}/search.html?q=quagmire")
    page.wait_for_selector("#search-results p:has-text('did not match')")
    assert page.locator("#search-results li").count() == 0
