"""Pictures: drawn, bundled with a dependency, from the reader's own folder, or from the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from course_utils.data.butterflies import BACKGROUNDS, COLOURS, PATTERNS, SHAPES
from course_utils.data.folder import as_rgb, read_folder, square
from course_utils.data.hub import download  # here, before `def hub`: a first import later would replace that
from course_utils.data.stored import Stored
from course_utils.messages import tr

__all__ = [
    "Batches",
    "ImageSet",
    "butterflies",
    "digits",
    "flowers",
    "folder",
    "hub",
    "load",
    "scene_words",
    "scenes",
    "split",
    "square",
    "stack",
    "subject",
    "to_model",
    "to_uint8",
]


@dataclass(frozen=True)
class ImageSet:
    """Pictures, in memory or, as those of a folder, on the disk.

    images: uint8, (N, C, size_px, size_px), 0..255; C is 1 or 3. labels: name -> int64, (N,). source: where
    they come from, for people. skipped: a sentence for each file that could not be used.
    """

    images: Tensor
    source: str
    labels: dict[str, Tensor] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index) -> ImageSet:
        """The pictures at `index` (a slice, or a tensor of indices), as another set."""
        labels = {name: values[index] for name, values in self.labels.items()}
        return replace(self, images=self._part(index), labels=labels)

    def _part(self, index):
        return self.images[index]

    def read(self, rows) -> Tensor:
        """The pixels of the pictures at `rows` (whole numbers): uint8, (len(rows), C, size_px, size_px)."""
        return self.images[rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, size_px, size_px)."""
        return tuple(self.images.shape)

    @property
    def size_px(self) -> int:
        """Width and height."""
        return self.shape[-1]


class StoredSet(ImageSet):
    """Pictures on the disk. `read` brings some of them into memory; `images` all, and there they stay."""

    @property
    def images(self) -> Tensor:
        """All of them, uint8, (N, C, size_px, size_px)."""
        if isinstance(self._pixels, Stored):
            vars(self)["_pixels"] = self._pixels[:]
        return self._pixels

    @images.setter
    def images(self, pixels: Tensor | Stored):
        vars(self)["_pixels"] = pixels  # what ImageSet is made with

    def _part(self, index):
        return self._pixels.part(index) if isinstance(self._pixels, Stored) else self._pixels[index]

    def read(self, rows) -> Tensor:
        """The pixels of the pictures at `rows`, and only these: uint8, (len(rows), C, size_px, size_px)."""
        return self._pixels[rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, size_px, size_px)."""
        return tuple(self._pixels.shape)


@dataclass(frozen=True)
class Scenes(ImageSet):
    """Drawn scenes: pictures with labels, a caption each, and (N, 1, size_px, size_px), uint8:

    masks: the subject's share of each pixel. depths: 0 far away to 255 close.
    """

    captions: tuple[str, ...] = ()
    masks: Tensor | None = None
    depths: Tensor | None = None

    def __getitem__(self, index) -> Scenes:
        """The scenes at `index` (a slice, or a tensor of indices), as another set."""
        captions = tuple(np.array(self.captions, dtype=object)[index])
        return replace(
            super().__getitem__(index), captions=captions, masks=self.masks[index], depths=self.depths[index]
        )


def scenes(
    count: int = 1000, *, size_px: int = 64, seed: int = 0, start=0, combinations="seen", **fixed: str
) -> Scenes:
    """Drawn scenes, the same for the same seed; labels "noun", "colour", "pattern", "background", "style".

    combinations: "seen" (what the miniatures train on), "held out" or "any". fixed: attributes that all of
    them have, by name: noun="fish".
    """
    from course_utils.data.grammar import draw

    drawn = draw(count, size_px=size_px, seed=seed, start=start, combinations=combinations, **fixed)
    return _as_scenes(drawn, f"{count} drawn scenes")


def subject(name: str, count: int = 6, *, size_px: int = 64, seed: int = 0, **fixed) -> Scenes:
    """One individual, "bubble", "ember" or "pebble", in drawn scenes: see `grammar.draw_subject`."""
    from course_utils.data.grammar import draw_subject

    drawn = draw_subject(name, count, size_px=size_px, seed=seed, **fixed)
    return _as_scenes(drawn, f"{count} drawings of {name}")


def _as_scenes(drawn, source):
    labels = {name: torch.from_numpy(values) for name, values in drawn.attributes.items()}
    images, masks, depths = (torch.from_numpy(array) for array in (drawn.images, drawn.masks, drawn.depths))
    return Scenes(images, source, labels, captions=drawn.captions, masks=masks, depths=depths)


def butterflies(count: int = 1000, *, size_px: int = 32, seed: int = 0) -> ImageSet:
    """Drawn butterflies, the same for the same seed; labels "colour", "pattern", "background", "shape"."""
    from course_utils.data.butterflies import draw

    drawn = draw(count, size_px=size_px, seed=seed)
    labels = {name: torch.from_numpy(values) for name, values in drawn.attributes.items()}
    return ImageSet(torch.from_numpy(drawn.images), f"{count} drawn butterflies", labels)


def scene_words() -> list[str]:
    """Every word of the scenes' captions: what the text-to-image miniatures understand."""
    from course_utils.data.grammar import words

    return words()


def flowers(count: int = 1000, *, size_px: int = 32, seed: int = 0) -> Scenes:
    """Drawn scenes with a flower, of any combination of attributes."""
    return scenes(count, size_px=size_px, seed=seed, combinations="any", noun="flower")


def digits() -> ImageSet:
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey levels (scikit-learn's copy of the UCI set)."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ImageSet(
        torch.from_numpy(images), "handwritten digits, UCI", {"digit": torch.from_numpy(label).long()}
    )


def folder(path, *, size_px: int = 32, limit: int | None = None) -> ImageSet:
    """Every usable picture below `path`, cut to a square and resized; unusable files are in `skipped`.

    The pictures stay on the disk, in a temporary file: training reads them batch by batch.
    """
    images, skipped = read_folder(path, size_px, limit)
    return StoredSet(images, f"{images.shape[0]} pictures from {path}", skipped=tuple(skipped))


def hub(name: str, *, size_px: int = 32, limit: int | None = None) -> ImageSet:
    """A picture set of the course's table (`checkpoints.DATASETS`) or any id, downloaded from the Hub."""
    images, labels, source = download(name, size_px, limit)
    return ImageSet(torch.from_numpy(images), source, {k: torch.from_numpy(v) for k, v in labels.items()})


def load(name: str, *, size_px: int, count: int | None = None) -> ImageSet:
    """Pictures by name: "butterflies", "flowers", "digits", a folder, or a Hub set; `count` limits them.

    The three names give the drawn or bundled pictures at `mini` scale and the published set at `full` scale.
    """
    import os

    from course_utils import profile

    drawn = {"butterflies": butterflies, "flowers": flowers}
    if name in drawn and profile.scale() == "mini":
        return drawn[name](count or 1250, size_px=size_px)
    if name == "digits" and profile.scale() == "mini":
        return _resized(digits()[:count], size_px)
    if name in (*drawn, "digits"):
        return hub(name, size_px=size_px, limit=count)
    if os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return folder(os.path.expanduser(name), size_px=size_px, limit=count)
    return hub(name, size_px=size_px, limit=count)


def split(images: ImageSet, share: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Two sets that share no picture: `share` of them, chosen at random, and the rest; neither is empty."""
    if len(images) < 2 or not 0 < share < 1:
        raise ValueError(
            tr(
                "got {count} pictures and share={share}, expected at least 2 pictures and a share between "
                "0 and 1.",
                count=len(images),
                share=share,
            )
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    cut = min(max(1, round(share * len(images))), len(images) - 1)
    return images[order[:cut]], images[order[cut:]]


def _resized(images, size_px):
    if images.size_px == size_px:
        return images
    scaled = torch.nn.functional.interpolate(images.images.float(), (size_px, size_px), mode="bilinear")
    return replace(images, images=scaled.round().to(torch.uint8))


def to_model(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same shape."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """float in [-1, 1] (what lies outside is cut off) -> uint8 0..255, same shape, on the CPU."""
    return x.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def stack(images) -> Tensor:
    """PIL images of one size, as the pipelines return them -> uint8 (N, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(as_rgb(image)).transpose(2, 0, 1) for image in images]))


class Batches:
    """Batch number n of an endless shuffled pass over a set: a function of the seed and n alone.

    Called with n = 0, 1, ...: float32 in [-1, 1], (batch_size, C, H, W), each picture mirrored at random
    if `flip`. With `processes` > 1, process number `process` gets its own share of every batch.
    """

    def __init__(
        self, images: ImageSet, batch_size, *, seed=0, flip=True, device="cpu", process=0, processes=1
    ):
        if not 1 <= batch_size * processes <= len(images):
            raise ValueError(
                tr(
                    "got a batch of {batch} for a set of {count} pictures, expected 1 to {count}: lower "
                    "the batch size to {most}, or add pictures.",
                    batch=batch_size * processes,
                    count=len(images),
                    most=max(1, len(images) // processes),
                )
            )
        self.images, self.batch_size, self.seed, self.flip = images, batch_size, seed, flip
        self.device, self.process, self.processes = device, process, processes
        self._epoch, self._order = -1, None  # the order of the pass at hand

    def indices(self, n: int) -> np.ndarray:
        """Which pictures batch n holds: (batch_size,)."""
        whole = self.batch_size * self.processes
        epoch, place = divmod(n, len(self.images) // whole)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
            self._epoch, self._order = epoch, order
        mine = self._order[place * whole : (place + 1) * whole]
        return mine[self.process :: self.processes]

    def __call__(self, n: int) -> Tensor:
        """Batch n: (batch_size, C, H, W)."""
        x = to_model(self.images.read(self.indices(n)).to(self.device))  # it travels as uint8
        if self.flip:
            mirrored = np.random.default_rng((self.seed, n, self.process)).random(len(x)) < 0.5
            x = torch.where(torch.from_numpy(mirrored).to(self.device)[:, None, None, None], x.flip(-1), x)
        return x


NAMES = {"colour": tuple(COLOURS), "pattern": PATTERNS, "background": tuple(BACKGROUNDS), "shape": SHAPES}
