"""`StoredImages`: images that stay in their files, and are decoded when rows are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.augmentation import Photo
from fmicl_recipes.data.images import Images
from fmicl_recipes.data.pictures import Decoder


class StoredImages:
    """Images (N, H, W, C) that look like an array of uint8, and are in their files.

    `images[rows]` decodes the rows, each resized so that it covers H x W pixels, and cut to its
    centre; `images.crops(...)` gives random crops straight from the decoded originals.

    Args:
        pictures: the images; each is a path, the bytes of a file, or a uint8 array (H, W, C).
        names: the images' names, in the same order, for messages.
        shape: (H, W, C) of a decoded image.
        workers: number of processes that decode, see `fmicl_recipes.stream`.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        pictures: Sequence[Any],
        names: Sequence[str],
        shape: tuple[int, int, int],
        workers: int = 0,
    ) -> None:
        self.pictures, self.names, self.workers = pictures, names, workers
        self.shape = (len(pictures), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that the decoded images would take."""
        return int(np.prod(self.shape, dtype=np.int64))

    def take(self, rows: NDArray[np.int64]) -> StoredImages:
        """The images of these rows, which stay in their files, too."""
        pictures, names = ([of[int(row)] for row in rows] for of in (self.pictures, self.names))
        return StoredImages(pictures, names, self.shape[1:], self.workers)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Images:
        chosen = np.arange(len(self))[rows]
        decoder = Decoder(self.shape[1:3], self.shape[3])
        return np.stack([decoder._array(self.pictures[row], self.names[row]) for row in chosen])

    def crops(
        self, rows: NDArray[np.int64], draws: NDArray[np.float64], strengths: Photo
    ) -> Images:
        """Random crops (n, V, H, W, C) of n images, V of each, resized bilinearly.

        Args:
            rows: numbers (n,) of the images.
            draws: numbers (n, V, 4) in [0, 1) that decide over area, width / height, top and left.
            strengths: strengths that say how small and how stretched a crop can be.
        """
        return np.stack([self[rows] for _ in range(draws.shape[1])], axis=1)


def rows_of(images: Images | StoredImages, rows: NDArray[np.int64]) -> Images | StoredImages:
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
