"""Images in parts of one size, for what encodes any number of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from fmicl_recipes.stream import Item, stream

#: Number of images that are encoded at once, and pixels a side above which they are fewer.
CHUNK, CHUNK_SIDE = 500, 64
#: Images that are decoded sooner than workers have started.
FEW = 1000


def chunk_size(shape: Sequence[int]) -> int:
    """Number of images of that shape, (..., H, W, C), that are encoded at once."""
    pixels = shape[-3] * shape[-2]
    return max(8, min(CHUNK, CHUNK * CHUNK_SIDE**2 // pixels))


def chunks(images: Any, size: int | None = None) -> Iterator[Any]:
    """`size` images at a time, and the last ones, which may be fewer.

    Args:
        images: array of images, or `StoredImages`, whose workers decode ahead.
        size: number of images of a chunk; None takes `chunk_size`.
    """
    parts = _Chunks(images, size or chunk_size(images.shape))
    workers = min(getattr(images, "workers", 0), len(parts)) if len(images) > FEW else 0
    for item in stream(parts, workers=workers):
        yield item["images"]


def filled_chunks(images: Any, size: int | None = None) -> Iterator[Any]:
    """What `chunks` gives, the last one filled up with zeros: one shape to compile for."""
    size = size or chunk_size(images.shape)
    for chunk in chunks(images, size):
        missing = size - len(chunk)
        yield np.pad(chunk, [(0, missing)] + [(0, 0)] * (images.ndim - 1)) if missing else chunk


def joined(parts: Iterable[NDArray[Any]], count: int, *, progress: bool = False) -> NDArray[Any]:
    """The first `count` rows of parts, as one array that is filled while they come.

    Beside it there is one part in memory at a time.

    Args:
        parts: at least one array (n, ...), all of one dtype, with `count` rows or more together.
        count: number of rows.
        progress: whether to show a bar over the rows, one an image, if there is a terminal.
    """
    rows, start = np.empty(0), 0
    hidden = None if progress else True  # None: unless it is a terminal
    with tqdm(total=count, desc="encoding", unit="image", disable=hidden) as bar:
        for part in parts:
            if start == 0:
                rows = np.empty((count, *part.shape[1:]), part.dtype)
            kept = part[: count - start]
            rows[start : start + len(kept)] = kept
            start += len(kept)
            bar.update(len(kept))
    return rows


class _Chunks:
    """The images in parts, by number."""

    def __init__(self, images: Any, size: int) -> None:
        self.images, self.size = images, size
        self.nbytes = size * int(np.prod(images.shape[1:]))

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, number: int) -> Item:
        start = number * self.size
        return {"images": self.images[start : start + self.size]}
