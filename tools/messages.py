"""The messages of `course_utils`: found in its source, and compiled for it from their catalogues."""

import ast
from string import Formatter

from tools import catalogues

PACKAGE = "course_utils"
FUNCTION = "tr"


def units(root):
    """Return the messages of the package, in the order of its modules, as pairs (None, text).

    Raises SystemExit where a call holds no plain string, which nobody could translate.
    """
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            try:
                found.append((None, ast.literal_eval(call.args[0])))
            except ValueError:
                raise SystemExit(
                    f"{path.relative_to(root)}, line {call.lineno}: {FUNCTION}() got something computed, "
                    "expected a plain string: name its fields in braces and pass the values by name."
                ) from None
    return list(dict.fromkeys(found))


def calls(tree):
    """Return the calls of the function that translates, in the order of the source."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node.func) == FUNCTION]
    return sorted((call for call in found if call.args), key=lambda call: (call.lineno, call.col_offset))


def called(function):
    """Return the name by which a function is called, or None."""
    return getattr(function, "id", None) or getattr(function, "attr", None)


def differences(message, translation):
    """Return one line for each field of the `message` that its `translation` has lost, changed or added."""
    try:
        before, after = fields(message), fields(translation)
    except ValueError as error:
        return [f"has broken braces ({error})"]
    lost = [f"has lost {{{field}}}" for field in sorted(before - after)]
    return lost + [f"has added {{{field}}}" for field in sorted(after - before)]


def fields(text):
    """Return the fields of a format string, each with its format."""
    found = {(name, kind, form) for _, name, form, kind in Formatter().parse(text) if name is not None}
    return {name + (f"!{kind}" if kind else "") + (f":{form}" if form else "") for name, kind, form in found}


def compiled(root, language):
    """Return (place, bytes) of the catalogue in the form that gettext reads."""
    place = f"{PACKAGE}/locale/{language}/LC_MESSAGES/{PACKAGE}.mo"
    return place, catalogues.read(root / catalogues.place(language, PACKAGE), language).to_binary()
