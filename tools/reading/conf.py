"""How Sphinx makes the pages of the reading edition; tools/site.py adds what depends on the language."""

import json
import re
from importlib.metadata import distribution

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.locale import _
from sphinx.search import SearchLanguage, languages
from sphinx.util import logging

MATH_FONT = "ziamath/fonts/STIXTwoMath-Regular.ttf"
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Chinese characters, Hangul
TIGHT = {  # symbols that TeX does not take for operators
    "<mo>&#x0002F;</mo>": '<mo lspace="0" rspace="0">&#x0002F;</mo>',
    "<mo>&#x02205;</mo>": "<mi>&#x02205;</mi>",
}
FOUND = "Search finished, found one page matching the search query."

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6
myst_all_links_external = True  # tools/site.py has written the addresses as they are on the site
highlight_language = "text"
templates_path = ["templates"]

html_theme = "furo"
html_theme_options = {"announcement": "languages"}  # templates/page.html puts them there
html_static_path = ["static", str(distribution("ziamath").locate_file(MATH_FONT))]
html_css_files = ["course.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_use_index = False
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"


def setup(app):
    """Tell Sphinx what is particular to the course."""
    app.add_html_math_renderer("mathml", (equation, None), (block_equation, None))
    languages.update(ja=Pairs, ko=Pairs)
    app.connect("builder-inited", say_what_is_found)
    app.connect("doctree-read", name_headings)
    app.connect("doctree-resolved", link_pictures)
    app.connect("html-page-context", switch_languages)


# Equations are MathML, which browsers draw without a script


def equation(translator, node):
    """Write an equation that stands in a line."""
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def block_equation(translator, node):
    """Write an equation that stands alone."""
    translator.body.append(f'<div class="equation">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def mathml(node, display):
    """Return the TeX in `node` as MathML; warn of a command that is not known."""
    written = convert(node.astext(), display=display)
    unknown = re.search(r"\\[A-Za-z]+", written)
    if unknown:
        logging.getLogger(__name__).warning("%s is not known in equations", unknown[0], location=node)
    for wide, tight in TIGHT.items():
        written = written.replace(wide, tight)
    return written


# Search in languages that put no spaces between words, or endings after them


class Pairs(SearchLanguage):
    """Text is found by each letter and each pair of neighbours: no word has to be told from the next."""

    js_splitter_code = f"""
var splitQuery = (query) =>
  (query.match(/[{UNSPACED}]+|(?:(?![{UNSPACED}])[\\p{{Letter}}\\p{{Number}}_])+/gu) || []).flatMap((word) =>
    /^[{UNSPACED}]./.test(word) ? [...word].slice(1).map((next, i) => word[i] + next) : [word]);
"""

    def split(self, input):
        """Return what `input` is found by."""
        found = []
        for word in re.findall(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+", input):
            whole = not re.match(f"[{UNSPACED}]", word)
            found += [word] if whole else [*word, *map("".join, zip(word, word[1:], strict=False))]
        return found


# Pages


def say_what_is_found(app):
    """Give the script of the search its closing sentence, which Sphinx has in few languages."""
    if app.config.language != "en":
        words = f"{json.dumps(FOUND)}: [{json.dumps(_(FOUND))}]"
        app.add_js_file(None, body=f"Object.assign(Documentation.TRANSLATIONS, {{{words}}})", priority=900)


def name_headings(app, doctree):
    """Give each heading the anchor that it has on GitHub."""
    for section in doctree.findall(nodes.section):
        if section.get("slug") and section["slug"] not in section["ids"]:
            section["ids"].append(section["slug"])


def link_pictures(app, doctree, docname):
    """Let each picture be opened alone, to look at it more closely than a narrow screen allows."""
    folder = "../" * docname.count("/") + app.builder.imagedir
    for picture in list(doctree.findall(nodes.image)):
        link = nodes.reference(refuri=f"{folder}/{app.env.images[picture['uri']][1]}", internal=True)
        picture.replace_self(link)
        link += picture


def switch_languages(app, pagename, templatename, context, doctree):
    """Tell the template of a page in which languages there is one."""
    context["languages"] = context["languages"].get(pagename, [])
