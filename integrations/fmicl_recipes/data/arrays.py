"""Decoded pictures as one array, if memory holds it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes.data.splits import Images
from fmicl_recipes.resources import free_memory


def stack(pictures: Iterable[Images], count: int, source: str) -> Images:
    """One array (N, H, W, C) of pictures (H, W, C); grey ones beside colour ones become colour.

    Args:
        pictures: pictures, all of one height and width.
        count: number of pictures at most.
        source: name of the data set, for messages.

    Raises:
        ValueError: the sizes differ, or the array does not fit in memory.
    """
    images, filled = np.empty((0, 0, 0, 0), np.uint8), 0
    for index, picture in enumerate(pictures):
        if index == 0:
            images = _room((count, *picture.shape), source)
        if picture.shape[:2] != images.shape[1:3]:
            check_alike([images.shape[1:3], picture.shape[:2]])
        if picture.shape[2] > images.shape[3]:  # the first images were grey
            grey, images = images, _room((count, *picture.shape), source)
            images[:index] = grey[:index]
        images[index] = picture
        filled = index + 1
    return images[:filled]


def check_alike(sizes: Iterable[tuple[int, ...]], *, between_splits: bool = False) -> None:
    """Check that all images are of one size.

    Args:
        sizes: different sizes (height, width) that there are.
        between_splits: whether each is of another split.

    Raises:
        ValueError: there are several.
    """
    if len(found := list(sizes)) < 2:
        return
    if between_splits:
        expected = "a size, as training and test images differ in theirs"
    else:
        expected = f"a size, as images differ in theirs ({found[0]} and {found[1]})"
    raise invalid("image_size", expected, None)


def same_channels(*arrays: Images) -> list[Images]:
    """The arrays, each with as many channels as the one that has most; grey becomes colour."""
    channels = max(array.shape[-1] for array in arrays)
    if channels != 3:
        return list(arrays)
    return [a if a.shape[-1] == 3 else np.repeat(a, 3, axis=-1) for a in arrays]


def _room(shape: tuple[int, ...], source: str) -> Images:
    """An array that is not filled yet, when it fits in memory."""
    need, free = int(np.prod(shape, dtype=np.int64)), free_memory()
    if need > 0.8 * free:
        fitting = f"images that fit in memory ({free / 2**30:.1f} GiB available)"
        raise invalid("data", fitting, source, why=f"Decoded they take {need / 2**30:.1f} GiB. With"
                      " cache = 'disk' they stay in their files.")  # fmt: skip
    return np.empty(shape, np.uint8)
