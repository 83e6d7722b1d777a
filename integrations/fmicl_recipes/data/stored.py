"""`StoredImages`: images that stay in their files, and are decoded when rows are taken."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.augmentation import Photo
from fmicl_recipes.data.index import stamps
from fmicl_recipes.data.pictures import Box, Decoder
from fmicl_recipes.data.splits import Images

ADVICE = (
    "Once it is repaired the run goes on with --resume; a run with --skip-corrupt leaves such"
    " images out from its start."
)


class StoredImages:
    """Images (N, H, W, C) that look like an array of uint8, and are in their files.

    `images[rows]` decodes the rows, each resized so that it covers H x W pixels, and cut to its
    centre; `images.crops(...)` gives random crops straight from the decoded originals.

    Args:
        pictures: the pictures; each is a path, the bytes of a file, or a uint8 array (H, W, C).
        names: the pictures' names, in the same order, for messages.
        shape: (H, W, C) of a decoded image.
        workers: number of processes that decode, see `fmicl_recipes.stream`.
        rows: numbers (N,) of the pictures that are the images; None for all of them.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        pictures: Sequence[Any],
        names: Sequence[str],
        shape: tuple[int, int, int],
        workers: int = 0,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.pictures, self.names, self.workers = pictures, names, workers
        self.rows = np.arange(len(pictures)) if rows is None else rows
        self.shape = (len(self.rows), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that the decoded images would take."""
        return int(np.prod(self.shape, dtype=np.int64))

    def take(self, rows: NDArray[np.int64]) -> StoredImages:
        """The images of these rows, which stay in their files, too."""
        return StoredImages(
            self.pictures, self.names, self.shape[1:], self.workers, self.rows[rows]
        )

    def stamp(self) -> bytes:
        """A digest of names and sizes in bytes, by which other images can be told from these.

        It is found without decoding. A picture that was changed and has kept its name and its size
        in bytes is not noticed, nor is a row of a table whose bytes are as many as before.
        """
        digest = hashlib.sha256(repr(self.shape).encode())
        for row in self.rows:
            digest.update(self.names[row].encode("utf-8", "surrogateescape") + b"\0")
        digest.update(np.ascontiguousarray(stamps(self.pictures)[self.rows, 0]).data)
        return digest.digest()

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Images:
        decoder, chosen = self._decoder(), self.rows[rows]
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            images[place] = decoder.array(self.pictures[row], self.names[row])
        return images

    def crops(
        self, rows: NDArray[np.int64], draws: NDArray[np.float64], strengths: Photo
    ) -> Images:
        """Random crops (n, V, H, W, C) of n images, V of each, resized bilinearly.

        Args:
            rows: numbers (n,) of the images.
            draws: numbers (n, V, 4) in [0, 1) that decide over area, width / height, top and left.
            strengths: strengths that say how small and how stretched a crop can be.
        """
        decoder, chosen = self._decoder(), self.rows[rows]
        crops = np.empty((len(chosen), draws.shape[1], *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            boxes = partial(_crop_boxes, draws=draws[place], strengths=strengths)
            crops[place] = decoder.crops(self.pictures[row], self.names[row], boxes)
        return crops

    def _decoder(self) -> Decoder:
        return Decoder(self.shape[1:3], self.shape[3], advice=ADVICE)


def _crop_boxes(size: tuple[int, int], draws: NDArray[np.float64], strengths: Photo) -> list[Box]:
    return [crop_box(size, draw, strengths) for draw in draws]


def crop_box(size: tuple[int, int], draw: NDArray[np.float64], strengths: Photo) -> Box:
    """The box of a random crop.

    Its area is drawn evenly from `crop_scale` to 1 of that of the picture, its width / height
    log-evenly from `strengths.aspect`. A side that would leave the picture is cut to it, so that
    crops of a picture that is longer than wide can be of a smaller area.

    Args:
        size: (width, height) of the picture.
        draw: numbers (4,) in [0, 1) for area, width / height, top and left.
        strengths: strengths that hold `crop_scale` and `aspect`.
    """
    width, height = size
    area = strengths.crop_scale + (1.0 - strengths.crop_scale) * draw[0]
    low, high = np.log(strengths.aspect)
    stretch = np.exp(low + (high - low) * draw[1])
    root = np.sqrt(area * width * height)
    wide = float(min(root * np.sqrt(stretch), width))
    tall = float(min(root / np.sqrt(stretch), height))
    top, left = float(draw[2]) * (height - tall), float(draw[3]) * (width - wide)
    return left, top, min(left + wide, width), min(top + tall, height)


def rows_of(images: Images | StoredImages, rows: NDArray[np.int64]) -> Any:
    """These rows of an array, or of images that stay in their files."""
    return images.take(rows) if isinstance(images, StoredImages) else images[rows]


class StoredCrops:
    """Random crops (n, V, H, W, C) of stored images, which look like an array of uint8.

    Args:
        images: images to crop.
        draws: numbers (n, V, 4), as for `StoredImages.crops`.
        strengths: strengths, as for `StoredImages.crops`.
    """

    dtype = StoredImages.dtype
    ndim = 5

    def __init__(self, images: StoredImages, draws: NDArray[np.float64], strengths: Photo) -> None:
        self.images, self.draws, self.strengths = images, draws, strengths
        self.workers = images.workers
        self.shape = (len(images), draws.shape[1], *images.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Images:
        return self.images.crops(np.arange(len(self))[rows], self.draws[rows], self.strengths)


#: Images as an array, or in their files.
AnyImages = Images | StoredImages | StoredCrops
