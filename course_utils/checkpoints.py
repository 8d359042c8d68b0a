"""One table of everything that the course downloads or ships: names, ids in order of preference, licences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MINIATURES = Path(__file__).parent / "miniatures"


@dataclass(frozen=True)
class HubSet:
    """A picture set on the Hub: ids in order of preference, the column of pictures and those of labels."""

    ids: tuple[str, ...]
    licence: str
    download_mb: int
    image_column: str = "image"
    label_columns: tuple[tuple[str, str], ...] = ()  # (name in the course, column)
    grey: bool = False


DATASETS = {
    "butterflies": HubSet(("huggan/smithsonian_butterflies_subset",), "CC0-1.0", 240),
    "digits": HubSet(("ylecun/mnist",), "MIT", 18, label_columns=(("digit", "label"),), grey=True),
}
