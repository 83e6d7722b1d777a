"""Images in parts of one size, for what encodes any number of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fmicl_recipes.stream import Item, stream

#: Number of images that are encoded at once, and pixels a side above which they are fewer.
CHUNK, CHUNK_SIDE = 500, 64


def chunk_size(shape: Sequence[int]) -> int:
    """Number of images of that shape, (..., H, W, C), that are encoded at once."""
    pixels = shape[-3] * shape[-2]
    return max(8, min(CHUNK, CHUNK * CHUNK_SIDE**2 // pixels))


def filled_chunks(images: Any, size: int | None = None) -> Iterator[Any]:
    """`size` images at a time, the last ones filled up with zeros: one shape to compile for.

    Args:
        images: array of images, or `StoredImages`, whose workers decode ahead.
        size: number of images of a chunk; None takes `chunk_size`.
    """
    size = size or chunk_size(images.shape)
    workers = min(getattr(images, "workers", 0), -(-len(images) // size) - 1)
    for item in stream(_Chunks(images, size), workers=workers):
        chunk = item["images"]
        yield np.pad(chunk, [(0, size - len(chunk))] + [(0, 0)] * (images.ndim - 1))


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
