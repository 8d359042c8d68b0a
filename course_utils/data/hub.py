"""Picture sets from the Hub."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from course_utils.checkpoints import DATASETS, HubSet
from course_utils.data.folder import as_rgb


def download(
    name: str, size_px: int, limit: int | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray], str]:
    """The training split of a set: uint8 (N, C, size_px, size_px), labels, and where it came from.

    Ids are tried in order; ConnectionError says which were tried and why each failed.
    """
    from datasets import load_dataset
    from huggingface_hub import constants

    wanted = DATASETS.get(name, HubSet((name,), "see its page", 0))
    failures = []
    for hub_id in wanted.ids:
        try:
            rows = load_dataset(hub_id, split="train" if limit is None else f"train[:{limit}]")
        except Exception as error:  # the clients raise a dozen kinds; all mean: try the next
            failures.append(f"{hub_id}: {str(error).splitlines()[0][:120]}")
            continue
        return *_arrays(rows, wanted, size_px), f"{len(rows)} pictures from {hub_id}"
    offline = "unset HF_HUB_OFFLINE and restart" if constants.HF_HUB_OFFLINE else "connect"
    raise ConnectionError(
        f"got no set {name!r} from the Hub ({'; '.join(failures)}), expected a public one and a network: "
        f"{offline}, give a folder of pictures, or restart with COURSE_SCALE=mini to do without."
    )


def _arrays(rows, wanted, size_px):
    if wanted.image_column not in rows.column_names:
        raise ValueError(
            f"got a set with the columns {', '.join(rows.column_names)}, expected one named "
            f"{wanted.image_column!r}: choose a set of pictures."
        )
    images = np.stack([_pixels(image, wanted.grey, size_px) for image in rows[wanted.image_column]])
    return images, {name: np.asarray(rows[column], dtype=np.int64) for name, column in wanted.label_columns}


def _pixels(image, grey, size_px):
    image = image.convert("L") if grey else as_rgb(image)
    pixels = np.asarray(ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
