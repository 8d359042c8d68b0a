"""The reading edition: the course as a static site, from the outputs that the notebooks hold.

    python -m tools.site

Writes `build/site/`, in which each language is a Sphinx project of its own, with its own search. Nothing is
executed, every warning is an error, and the pages need neither a server nor a network.
"""

import argparse
import posixpath
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat
from nbconvert import MarkdownExporter
from sphinx import locale
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from tools import documents, links, markup
from tools.files import ROOT, write_bytes, write_text
from tools.notebooks import empty_folder

BUILD = ROOT / "build" / "site"
SETTINGS = Path(__file__).with_name("reading")
TEMPLATE = SETTINGS / "templates" / "notebook.md.j2"
PICTURES = {".png", ".gif", ".jpg", ".svg"}
FENCE = "~" * 8  # no document has so many in a row


@dataclass(frozen=True)
class Site:
    """The course, and which page shows which of its files: path -> (language, name of the page).

    Sphinx reads the folder `sources`. To the files `linked`, which are no documents, some document links.
    """

    course: documents.Course
    sources: Path
    pages: dict
    linked: list = field(default_factory=list)

    def languages(self):
        """Return the languages that have a first page."""
        return [each for each in self.course.table["languages"] if (each, "index") in self.pages.values()]


def main(argv=None):
    """Build the site; return 1 if there was a warning, else 0."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    if build(ROOT, BUILD):
        print("The warnings above are errors: mend what they name.")
        return 1
    print(f"Open {BUILD.relative_to(ROOT) / 'index.html'}")
    return 0


def build(root, target):
    """Write the site of the course at `root` into the folder `target`; return whether there was a warning."""
    site = site_at(root, empty_folder(target.with_name(f"{target.name}_sources")))
    for path in list(site.pages):
        write_document(site, path)
    for path in site.linked:  # which grows where one of them links to another
        write_linked(site, path)
    empty_folder(target)
    return any([run_sphinx(site, language, target) for language in site.languages()])


def site_at(root, sources):
    """Return the site of the course at `root`."""
    course, pages = documents.course_at(root), {}
    for name, translations in course.languages.items():
        for language in (documents.ENGLISH, *translations):
            pages[documents.translated_name(name, language)] = language, page_name(name)
    return Site(course, sources, pages)


def page_name(name):
    """Return the name of the page that shows the English document `name`, such as unit1/index."""
    folder, file = posixpath.split(name)
    return posixpath.join(folder, "index" if file == "README.md" else Path(file).stem)


# --- addresses ------------------------------------------------------------------------------------


def url(language, page):
    """Return the address of a page from the top of the site."""
    return f"{page}.html" if language == documents.ENGLISH else f"{language}/{page}.html"


def relative(there, here):
    """Return the address of the page `there` from the page `here`; each is (language, page)."""
    return quote(posixpath.relpath(url(*there), posixpath.dirname(url(*here)) or "."))


def address(site, target, path):
    """Return what a link to `target` in the course's file `path` is on the site.

    Raises SystemExit with one sentence when it leads to no file.
    """
    if documents.ELSEWHERE.match(target):
        return target
    file, hash_sign, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(file))) if file else path
    if not (site.course.root / there).is_file():
        sys.exit(f"{path} links to {target}, which is no file: the site has nothing to show there.")
    if Path(there).suffix in PICTURES:
        copy = site.sources / site.pages[path][0] / there
        write_bytes((site.course.root / there).read_bytes(), copy)
        return f"/{quote(there)}"
    if there not in site.pages:
        site.pages[there] = documents.ENGLISH, there
        site.linked.append(there)
    return relative(site.pages[there], site.pages[path]) + hash_sign + anchor


# --- what Sphinx reads ----------------------------------------------------------------------------


def write_document(site, path):
    """Write the document `path` as Sphinx reads it."""
    text, (language, page) = (site.course.root / path).read_text("utf-8"), site.pages[path]
    if path.endswith(".ipynb"):
        text = links.changed_notebook(text, lambda source: readdressed(site, source, path))
        text = notebook_text(text, site.sources / language / page)
    else:
        text = readdressed(site, text, path)
    write_text(f"{text}\n\n{contents(site, language, page)}", site.sources / language / f"{page}.md")


def readdressed(site, text, path):
    """Return Markdown with the addresses of the site, without the document's list of its languages."""
    for name in site.course.languages:
        if page_name(name) == site.pages[path][1]:
            text = documents.without_switch(text, name)
    return markup.retarget(text, lambda target: address(site, target, path))


def notebook_text(text, place):
    """Return a notebook as Markdown; its pictures are written into the folder `place`."""
    exporter = MarkdownExporter(template_file=str(TEMPLATE))
    exporter.environment.globals["fence"] = FENCE
    resources = {"unique_key": "picture", "output_files_dir": place.name}
    text, resources = exporter.from_notebook_node(nbformat.reads(text, as_version=4), resources)
    for name, content in resources["outputs"].items():
        write_bytes(content, place.parent / name)
    return text


def contents(site, language, page):
    """Return the list of the pages below `page`: the menu of the site shows it, the page does not."""
    below = [each for key, each in site.pages.values() if key == language and parent(site, key, each) == page]
    entries = "\n".join(f"/{each}" for each in below)
    return f"```{{toctree}}\n:hidden:\n\n{entries}\n```\n" if below else ""


def parent(site, language, page):
    """Return the page above `page`: the README of its folder, else the first page; above that is none."""
    if page == "index" or page in site.linked:
        return None
    beside = posixpath.join(posixpath.dirname(page), "index")
    return beside if beside != page and (language, beside) in site.pages.values() else "index"


def write_linked(site, path):
    """Write a page that shows the file `path`, which stands in no menu."""
    text, (language, page) = (site.course.root / path).read_text("utf-8"), site.pages[path]
    if path.endswith(".md"):
        text = readdressed(site, text, path)
    else:
        lexer = "python" if path.endswith(".py") else "text"
        text = f"# {path}\n\n{FENCE}{{code-block}} {lexer}\n\n{text}\n{FENCE}\n"
    write_text(f"---\norphan: true\n---\n\n{text}", site.sources / language / f"{page}.md")


# --- Sphinx ---------------------------------------------------------------------------------------


def run_sphinx(site, language, target):
    """Write the pages in `language` into the folder `target`; return whether there was a warning."""
    source, doctrees = site.sources / language, site.sources / f"{language}_doctrees"
    out = (target / url(language, "index")).parent
    title = documents.TITLE.search((source / "index.md").read_text("utf-8"))[0].removeprefix("# ")
    shutil.copytree(SETTINGS / "locales", source / "locales")  # where Sphinx compiles them
    settings = {"language": language, "project": title, "html_title": title}
    settings["html_context"] = {"languages": switches(site, language)}
    locale.translators.clear()  # or the words of the language before would come first
    with patch_docutils(SETTINGS), docutils_namespace():
        to_stderr = {"status": None, "warning": sys.stderr, "warningiserror": True}
        app = Sphinx(source, SETTINGS, out, doctrees, "html", settings, **to_stderr)
        app.build(force_all=True)
    shutil.rmtree(doctrees)
    return app.statuscode != 0


def switches(site, language):
    """Return the languages of each page in `language`: page -> [(language, its name, address)]."""
    there = {*site.pages.values(), *((each, "search") for each in site.languages())}
    names = {key: phrases["name"] for key, phrases in site.course.table["languages"].items()}

    def switch(page):
        keys = [key for key in names if (key, page) in there]
        return [(key, names[key], relative((key, page), (language, page))) for key in keys]

    return {page: switch(page) for key, page in there if key == language}


if __name__ == "__main__":
    sys.exit(main())
