"""Picture sets from the Hub."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from course_utils.checkpoints import DATASETS, HubSet
from course_utils.data.folder import as_rgb
from course_utils.downloads import require_room, snapshot
from course_utils.messages import tr


def download(
    name: str, size_px: int, limit: int | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray], str]:
    """The training split of a set: uint8 (N, C, size_px, size_px), labels, and where it came from.

    Ids are tried in order, and of a set that the course does not know also the form that the Hub itself gives
    it. Only Parquet is read: tables, no code. ConnectionError says which ids were tried and why each failed,
    OSError that the disk has no room.
    """
    converted = f"{name}@refs/convert/parquet"
    wanted = DATASETS.get(name, HubSet((name, converted), "see its page", 0))
    what = tr("set {name!r}", name=name)
    hub_id, folder = snapshot(what, wanted.ids, ("*.parquet",), (), _mend(), kind="dataset")
    rows = _rows(_training_files(folder), "train" if limit is None else f"train[:{limit}]")
    return *_arrays(rows, wanted, size_px), f"{len(rows)} pictures from {hub_id}"


def _mend():
    return tr("give a folder of pictures, or restart with COURSE_SCALE=mini to do without")


def _training_files(folder):
    """The tables of the training split, of the first configuration if there are several; else all tables."""
    tables = sorted(folder.rglob("*.parquet"))
    training = [table for table in tables if "train" in str(table.relative_to(folder))]
    return [table for table in training if table.parent == training[0].parent] or tables


def _rows(tables, split):
    from datasets import load_dataset

    files = [str(table.resolve()) for table in tables]  # the cache has links, which old clients don't follow
    try:
        return load_dataset("parquet", data_files={"train": files}, split=split)
    except Exception as error:
        require_room(error, _mend())
        raise


def _arrays(rows, wanted, size_px):
    import datasets

    if wanted.image_column not in rows.column_names:
        raise ValueError(
            tr(
                "got a set with the columns {columns}, expected one named {column!r}: choose a set of "
                "pictures.",
                columns=", ".join(rows.column_names),
                column=wanted.image_column,
            )
        )
    pictures = rows.cast_column(wanted.image_column, datasets.Image())
    images = np.stack([_pixels(row[wanted.image_column], wanted.grey, size_px) for row in pictures])
    return images, {name: np.asarray(rows[column], dtype=np.int64) for name, column in wanted.label_columns}


def _pixels(image, grey, size_px):
    image = image.convert("L") if grey else as_rgb(image)
    pixels = np.asarray(ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
