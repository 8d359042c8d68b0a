"""The solutions that a notebook folds away, as names to test."""

import re


def run(cells, space):
    """Execute every solution in `space`; cells: id -> cell."""
    for name, cell in cells.items():
        if name.endswith("-help"):
            exec(re.search(r"```python\n(.*?)```", cell.source, re.S)[1], space)
