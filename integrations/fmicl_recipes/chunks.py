"""Images in parts of one size, for what encodes any number of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

#: Number of images that are encoded at once.
CHUNK = 500


def filled_chunks(images: Any, size: int = CHUNK) -> Iterator[Any]:
    """`size` images at a time, the last ones filled up with zeros: one shape to compile for."""
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        yield np.pad(chunk, [(0, size - len(chunk))] + [(0, 0)] * (images.ndim - 1))
