"""Where the course lies, and how a file of it is written: standard library only."""

import json
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notebook_text(notebook):
    """Return `notebook`, read as JSON, as the text of its file."""
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def write_text(text, path):
    """Write `text` to `path` in one step: readers see the old file or the new one."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(content, path):
    """Write the bytes `content` to `path` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, path.stat().st_mode if path.exists() else 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
