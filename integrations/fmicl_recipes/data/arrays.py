"""Decoded pictures as one array, if memory holds it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes.data.images import Images

#: Linux's account of its memory.
MEMINFO = Path("/proc/meminfo")


def stack(pictures: Iterable[Images], count: int, source: str) -> Images:
    """One array (N, H, W, C) of pictures (H, W, C); grey ones beside colour ones become colour.

    Args:
        pictures: at least one picture, all of one height and width.
        count: number of pictures.
        source: name of the data set, for messages.

    Raises:
        ValueError: the sizes differ, or the array does not fit in memory.
    """
    images = np.empty((0, 0, 0, 0), np.uint8)
    for index, picture in enumerate(pictures):
        if index == 0:
            images = _room((count, *picture.shape), source)
        if picture.shape[:2] != images.shape[1:3]:
            sizes = f"{images.shape[1:3]} and {picture.shape[:2]}"
            raise invalid("image_size", f"a size, as images differ in theirs ({sizes})", None)
        if picture.shape[2] > images.shape[3]:  # the first images were grey
            grey, images = images, _room((count, *picture.shape), source)
            images[:index] = grey[:index]
        images[index] = picture
    return images


def same_channels(*arrays: Images) -> list[Images]:
    """The arrays, each with as many channels as the one that has most; grey becomes colour."""
    channels = max(array.shape[-1] for array in arrays)
    if channels != 3:
        return list(arrays)
    return [a if a.shape[-1] == 3 else np.repeat(a, 3, axis=-1) for a in arrays]


def _room(shape: tuple[int, ...], source: str) -> Images:
    """An array that is not filled yet, when it fits in memory."""
    need, free = int(np.prod(shape, dtype=np.int64)), _available_memory()
    if need > 0.8 * free:
        fitting = f"images that fit in memory ({free / 2**30:.1f} GiB available)"
        raise invalid("data", fitting, source, why=f"Decoded they take {need / 2**30:.1f} GiB.")
    return np.empty(shape, np.uint8)


def _available_memory() -> int:
    """Bytes a process can get, including what the system would free where it says so."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62
