"""What a translation of Markdown must keep: code, equations, links, pictures, HTML, headings, numbers."""

import re
from collections import Counter
from functools import cache
from itertools import groupby

from markdown_it import MarkdownIt

MARKDOWN = MarkdownIt("commonmark").enable("table")
SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?!\s)[^$\n]+?(?<!\s)\$(?!\d)", re.DOTALL)
HTML = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)
ALT = re.compile(r"\s+(?:alt|title)\s*=\s*(\"[^\"]*\"|'[^']*')", re.IGNORECASE)
COMMENT = re.compile(r"(?:^|(?<=\s))#\s.*$", re.MULTILINE)
BROKEN = re.compile(r"^(?!#).*[぀-ヿ一-鿿、。]\n[぀-ヿ一-鿿]", re.MULTILINE)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
TARGET = re.compile(r"(\]\(\s*<?|\b(?:src|href)\s*=\s*[\"'])([^)\s>\"']+)", re.IGNORECASE)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
COUNTED = {"list_item_open": "list item", "th_open": "cell of a table", "td_open": "cell of a table"}


def differences(source, translation):
    """Return one line for each thing in the Markdown `source` that its `translation` has lost or added."""
    before, after = parts(source), parts(translation)
    found = [f"has lost {name(part, n)}" for part, n in (before - after).items()]
    added = {part: n for part, n in (after - before).items() if not may_be_added(part, before)}
    found += [f"has added {name(part, n)}" for part, n in added.items()]
    if "*" in prose(translation) and "*" not in prose(source):
        found.append("shows a * as a star: where a letter follows, let no punctuation stand just inside it")
    if BROKEN.search(translation):
        found.append("breaks a line between two Japanese letters, which shows as a space: join the lines")
    return found


def may_be_added(part, before):
    """Return whether a translation may hold `part` more often: a second mention, or "two" written as 2."""
    return part[0] == "number" or (part[0] in ("code", "equation") and part in before)


def name(part, count):
    """Return how a message names `part`, which stands `count` times too often or too seldom."""
    kind, content = part
    return f"the {kind} {content}".rstrip() + (f" ({count} times)" if count > 1 else "")


def parts(text):
    """Return what the Markdown `text` consists of, apart from its words: a Counter of (kind, content)."""
    found = Counter()
    masked = hide(text, MATH, lambda math: found.update([("equation", math)]))
    found.update(("HTML", ALT.sub("", tag)) for tag in HTML.findall(without_code(masked)))
    for token in MARKDOWN.parse(masked):
        if token.type in ("fence", "code_block"):
            found["code", lines_without_comments(token.content)] += 1
        elif token.type == "heading_open":
            found["heading", token.markup] += 1
        elif token.type in COUNTED:
            found[COUNTED[token.type], ""] += 1
        found.update(part for child in token.children or [] for part in inline_parts(child))
    return found


def inline_parts(token):
    """Yield (kind, content) for what one inline token holds."""
    if token.type == "code_inline":
        yield "code", token.content
    elif token.type == "link_open":
        yield "link", token.attrs["href"]
    elif token.type == "image":
        yield "picture", token.attrs["src"]
    elif token.type == "text":
        yield from (("number", number) for number in NUMBER.findall(token.content))


def hide(text, pattern, note):
    """Return `text` with what `pattern` finds outside code blanked out; `note` gets each find."""

    def blank(found):
        note(found[0])
        edge = len(found[0]) - len(found[0].lstrip("$"))
        return found[0][:edge] + "·" + found[0][-edge:]

    return replaced(text, pattern, blank)


def replaced(text, pattern, replacement):
    """Return `text` with `pattern` replaced everywhere but in code."""
    return "".join(piece if code else pattern.sub(replacement, piece) for code, piece in pieces(text))


def pieces(text):
    """Yield (whether it is code, the piece) for the pieces of `text`, in order."""
    tokens = MARKDOWN.parse(text)
    coded = {n for token in tokens if token.type in ("fence", "code_block") for n in range(*token.map)}
    lines = enumerate(text.splitlines(keepends=True))
    for block, group in groupby(lines, lambda line: line[0] in coded):
        piece, end = "".join(line for _, line in group), 0
        for span in [] if block else SPAN.finditer(piece):
            yield False, piece[end : span.start()]
            yield True, span[0]
            end = span.end()
        yield block, piece[end:]


def prose(text):
    """Return what is read as words: the text without code, equations, HTML and the targets of links."""
    tokens = MARKDOWN.parse(HTML.sub(" ", hide(text, MATH, lambda math: None)))
    children = [child for token in tokens for child in token.children or []]
    return "\n".join(child.content for child in children if child.type in ("text", "image"))


@cache
def has_words(text):
    """Return whether there is anything to translate in `text`: a word, or a comment in its code."""
    tokens = MARKDOWN.parse(text)
    comments = [COMMENT.findall(token.content) for token in tokens if token.type in ("fence", "code_block")]
    return bool(re.search(r"[^\W\d_]", prose(text)) or any(comments))


def lines_without_comments(code):
    """Return `code` without comments and without the spaces before them."""
    return "\n".join(line.rstrip() for line in COMMENT.sub("", code).splitlines()).strip("\n")


def retarget(text, change):
    """Return the Markdown `text` with `change` applied to the target of each link and picture."""
    return replaced(text, TARGET, lambda found: found[1] + change(found[2]))


def without_code(text):
    """Return `text` with a space in the place of each piece of code."""
    return "".join(" " if code else piece for code, piece in pieces(text))


def anchors(text):
    """Return the anchors of the headings in the Markdown `text`, as GitHub makes them."""
    made, seen = [], Counter()
    unfenced = "".join(piece for _, piece in pieces(text) if not piece.startswith("```"))
    for heading in HEADING.findall(unfenced):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", HTML.sub("", heading)).lower()
        anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        made.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return made
