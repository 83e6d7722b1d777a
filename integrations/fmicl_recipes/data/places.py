"""Where the images of splits stay: decoded in memory, or in their files as `StoredImages`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import callers_level, invalid
from fmicl_recipes.data.arrays import check_alike, same_channels, stack
from fmicl_recipes.data.index import Index, header, index_of
from fmicl_recipes.data.pictures import Decoder
from fmicl_recipes.data.splits import Split
from fmicl_recipes.data.stored import StoredImages
from fmicl_recipes.progress import note
from fmicl_recipes.resources import free_memory

#: Share of the free memory that decoded images may take, where "auto" decides.
SHARE = 0.5
#: Number of corrupt images that a warning names.
NAMED = 3

#: Rows of the pictures that images are made of, by split.
Kept = dict[str, NDArray[np.int64]]


class Options(NamedTuple):
    """How splits are read.

    Args:
        source: name of the data set, for messages.
        image_size: pixels a side; None for the pictures' own size.
        skip_corrupt: whether corrupt pictures are left out.
        workers: number of processes that read pictures which stay in their files.
        progress: whether to show a progress bar, and to say what was changed or chosen.
    """

    source: str
    image_size: int | None
    skip_corrupt: bool
    workers: int
    progress: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) to bring all images to."""
        return None if self.image_size is None else (self.image_size, self.image_size)


def decode(splits: Mapping[str, Split], options: Options) -> tuple[dict[str, Any], Kept]:
    """The images of every split as arrays, and the rows that they are.

    Raises:
        ValueError: a picture is corrupt, or sizes differ, or memory does not hold them.
    """
    decoder = Decoder(options.size, skip_corrupt=options.skip_corrupt)
    arrays = [
        stack(decoder.decode(split, key, options.source, options.progress), len(split.pictures),
              options.source)
        for key, split in splits.items()
    ]  # fmt: skip
    if options.progress:
        decoder.tell()
    kept = {
        key: np.delete(np.arange(len(split.pictures)), decoder.corrupt.get(key, []))
        for key, split in splits.items()
    }
    _tell_corrupt(splits, kept, options.source)
    arrays = same_channels(*arrays)
    check_alike({array.shape[1:3] for array in arrays}, between_splits=True)
    return dict(zip(splits, arrays, strict=True)), kept


def store(splits: Mapping[str, Split], options: Options) -> tuple[dict[str, Any], Kept]:
    """The images of every split as `StoredImages`, and the rows that they are.

    Raises:
        ValueError: a picture is corrupt, or sizes differ.
    """
    indexes = _indexes(splits, options)
    kept = {key: np.flatnonzero(index[:, 0]) for key, index in indexes.items()}
    for key, split in splits.items():
        if not options.skip_corrupt and len(kept[key]) < len(split.pictures):
            row = int(np.argmin(indexes[key][:, 0]))
            Decoder().array(split.pictures[row], split.names[row])  # which says what is wrong
    _tell_corrupt(splits, kept, options.source)
    shape = _shape([indexes[key][rows] for key, rows in kept.items()], options)
    return {
        key: StoredImages(split.pictures, split.names, shape, options.workers, kept[key])
        for key, split in splits.items()
    }, kept


def fit_in_memory(splits: Mapping[str, Split], options: Options) -> bool:
    """Whether the decoded images of splits take no more than a share of the free memory.

    Only where the first picture leaves a doubt are the headers of all read.
    """
    free = free_memory()
    count = sum(len(split.pictures) for split in splits.values())
    split = next(iter(splits.values()))
    height, width, channels = header(split.pictures[0])
    height, width = options.size or (height, width)
    least, most = (count * height * width * c for c in (channels or 1, 3))
    if least <= SHARE * free < most or not least:
        found = np.concatenate(list(_indexes(splits, options).values()))
        channels = int(found[:, 2].max(initial=1))
        height, width = options.size or found[:, :2].max(axis=0, initial=1)
        least = most = count * int(height) * int(width) * channels
    if most <= SHARE * free:
        return True
    if options.progress:
        note(
            f"decoded, the images would take {least / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of"
            " memory are free: they stay in their files"
        )
    return False


def _indexes(splits: Mapping[str, Split], options: Options) -> dict[str, Index]:
    return {
        key: index_of(split, key, decode=options.skip_corrupt, workers=options.workers,
                      progress=options.progress)
        for key, split in splits.items()
    }  # fmt: skip


def _shape(indexes: Sequence[Index], options: Options) -> tuple[int, int, int]:
    """(H, W, C) of all images, of several splits."""
    channels = max(int(index[:, 2].max()) for index in indexes)
    if options.size is not None:
        return (*options.size, channels)
    for index in indexes:
        check_alike({(int(h), int(w)) for h, w in np.unique(index[:, :2], axis=0)[:2]})
    check_alike({(int(i[0, 0]), int(i[0, 1])) for i in indexes}, between_splits=True)
    return int(indexes[0][0, 0]), int(indexes[0][0, 1]), channels


def _tell_corrupt(splits: Mapping[str, Split], kept: Kept, source: str) -> None:
    """Warn of pictures that are left out.

    Raises:
        ValueError: a split has none left.
    """
    names: list[str] = []
    for key, split in splits.items():
        rows = np.setdiff1d(np.arange(len(split.pictures)), kept[key])
        names += [split.names[row] for row in rows]
        if not len(kept[key]):
            raise invalid("data", "at least one image in every split that can be decoded", source,
                          why=f"All {len(rows)} of {key!r} are corrupt.")  # fmt: skip
    if names:
        listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        what = "1 corrupt image is" if len(names) == 1 else f"{len(names)} corrupt images are"
        warnings.warn(f"{what} left out: {listed}.", UserWarning, stacklevel=callers_level())
