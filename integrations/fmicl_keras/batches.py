"""Batches of images from memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.data import Images
from fmicl_recipes.draws import epoch_batches


class EpochBatches(keras.utils.PyDataset):
    """Batches of uint8 images, in an order that depends on (seed, epoch) alone.

    A last partial batch is left out. `start` chooses the epoch.

    Args:
        images: images (N, H, W, C) to take batches of.
        batch_size: number of images in a batch.
        seed: seed of the order.
        ids: numbers (N,) to give with the images, which say which belong together; None gives none.
    """

    def __init__(
        self, images: Images, batch_size: int, seed: int, ids: NDArray[np.int32] | None = None
    ) -> None:
        super().__init__()
        self.arrays = (images,) if ids is None else (images, ids)
        self.batch_size, self.seed = batch_size, seed
        self.start(0)

    def start(self, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        self.batches = epoch_batches(len(self.arrays[0]), self.batch_size, self.seed, epoch)

    @property
    def num_batches(self) -> int:
        """The number of steps of an epoch."""
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(array[self.batches[index]] for array in self.arrays)
