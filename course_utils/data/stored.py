"""Pictures on the disk: however many there are, memory holds only those that were asked for."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from course_utils.messages import tr


@dataclass(frozen=True)
class Stored:
    """Pixels in a file, one picture after another; an index (a slice, or whole numbers) reads some of them.

    rows: where in the file each picture is, int64, (N,). each: the shape of one, (C, H, W), uint8.
    """

    mapped: mmap.mmap
    rows: np.ndarray
    each: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return len(self.rows), *self.each

    def part(self, index) -> Stored:
        """The pictures at `index`, which nothing reads yet."""
        return replace(self, rows=self.rows[index if isinstance(index, slice) else np.asarray(index)])

    def __getitem__(self, index) -> Tensor:
        """The pixels of the pictures at `index`: uint8, (n, C, H, W)."""
        pixels = np.frombuffer(self.mapped, np.uint8).reshape(-1, *self.each)
        copied = torch.from_numpy(pixels.take(self.part(index).rows, axis=0))
        if hasattr(self.mapped, "madvise"):  # not so on Windows
            self.mapped.madvise(mmap.MADV_DONTNEED)  # or what was ever read would count as this process's
        return copied


def store(pictures: Iterable[np.ndarray], each: tuple[int, int, int]) -> Stored:
    """Write pictures, at least one, uint8 of the shape `each`, as they come, into a file without a name.

    It lies in TMPDIR and goes with its last user. Raises OSError, in one sentence, if the disk is full.
    """
    with tempfile.TemporaryFile(buffering=0) as file:
        for pixels in pictures:
            left = memoryview(pixels.tobytes())
            while left:
                with _room():
                    left = left[file.write(left) :]
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return Stored(mapped, np.arange(len(mapped) // math.prod(each)), each)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            tr(
                "got a disk that doesn't take the resized pictures ({reason}), expected room for them: free "
                "some, or set TMPDIR to a folder elsewhere and restart.",
                reason=error,
            )
        ) from error
