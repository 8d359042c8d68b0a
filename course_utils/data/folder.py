"""Pictures from a folder, whatever is in it: each file is used, or skipped with the reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from course_utils.data.stored import Stored, store
from course_utils.messages import tr

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000  # 300 MB once decoded; a larger file is more likely a mistake than a photograph


def read_folder(path, size_px: int, limit: int | None = None) -> tuple[Stored, list[str]]:
    """Read the pictures below `path`, in the order of their names, one at a time, `limit` at most.

    Returns them as (N, 3, size_px, size_px) on the disk, and a sentence for each picture file that was
    skipped. Raises FileNotFoundError or NotADirectoryError for a wrong path, ValueError if no usable picture
    is left, and OSError if the disk has no room.
    """
    refused = []  # (name, reason)
    images = store(islice(_usable(path, size_px, refused), limit), (3, size_px, size_px))
    return images, [tr("skipped {name}: {reason}.", name=name, reason=reason) for name, reason in refused]


def _usable(path, size_px, refused):
    """The pictures that can be read, at least one; the others go to `refused`."""
    none = True
    for file in picture_files(path):
        try:
            pixels = read_picture(file, size_px)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            refused.append((file.name, _reason(error, file)))
        else:
            none = False
            yield pixels
    if none:
        name, reason = refused[0]
        raise ValueError(
            tr(
                "got {path}, where none of {count} picture files can be read (skipped {name}: {reason}), "
                "expected at least one that can: replace them.",
                path=path,
                count=len(refused),
                name=name,
                reason=reason,
            )
        )


def picture_files(path) -> Iterator[Path]:
    """The files below `path` whose names end like a picture's, in order; hidden ones are left out."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            tr(
                "got {path}, which does not exist, expected a folder of pictures (or butterflies, digits, "
                "or the owner/name of a Hub set): create it or correct the path.",
                path=path,
            )
        )
    if not path.is_dir():
        raise NotADirectoryError(
            tr("got {path}, which is a file, expected a folder: give the folder that holds it.", path=path)
        )
    found = None
    for found in _below(path):
        yield found
    if found is None:
        raise ValueError(
            tr(
                "got {path}, which holds no pictures, expected files ending in {endings}: put some there "
                "or give another folder.",
                path=path,
                endings=", ".join(ENDINGS),
            )
        )


def _below(folder):
    """Of a large folder, no more than the names is in memory at once."""
    names = []
    with suppress(PermissionError):
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for name in names:
        file = folder / name
        if file.is_dir() and not file.is_symlink():
            yield from _below(file)
        elif file.suffix.lower() in ENDINGS and file.is_file():
            yield file


def read_picture(file, size_px: int) -> np.ndarray:
    """One picture, turned upright, cut to its central square and resized: uint8, (3, size_px, size_px)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    tr(
                        "it has {width} x {height} pixels, more than {max_pixels:,}",
                        width=image.width,
                        height=image.height,
                        max_pixels=MAX_PIXELS,
                    )
                )
            image.draft("RGB", (2 * size_px, 2 * size_px))  # lets a large JPEG be decoded small
            return np.asarray(square(image, size_px)).transpose(2, 0, 1)


def square(image: Image.Image, size_px: int) -> Image.Image:
    """A picture of any mode and size as a pipeline can take it: RGB, size_px wide and high.

    It is turned upright, laid on white where it is transparent, cut to its central square and resized.
    """
    return ImageOps.fit(as_rgb(ImageOps.exif_transpose(image)), (size_px, size_px), Image.Resampling.LANCZOS)


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16-bit greys scaled, transparency on white, the first frame of an animation."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image):
    """Deep greys as uint8. White is the largest number of 16 bits, or 1 or 255 where floats stay below it."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
    whites = (1, 255, 65535, 2**31 - 1) if image.mode == "F" else (65535, 2**31 - 1)
    white = next((w for w in whites if grey.max() <= w), grey.max())
    return np.round((grey / white).clip(0, 1) * 255).astype(np.uint8)


def _reason(error, file):
    if file.stat().st_size == 0:
        return tr("the file is empty")
    if isinstance(error, Image.UnidentifiedImageError):
        return tr("its content is no picture")
    return str(error).rstrip(".") or type(error).__name__
