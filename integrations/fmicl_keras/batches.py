"""Batches of images from memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import keras

from fmicl_recipes.data import Images
from fmicl_recipes.draws import epoch_batches


class EpochBatches(keras.utils.PyDataset):
    """Batches of uint8 images, in an order that depends on (seed, epoch) alone.

    A last partial batch is left out. `start` chooses the epoch.
    """

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start(0)

    def start(self, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        self.batches = epoch_batches(len(self.images), self.batch_size, self.seed, epoch)

    @property
    def num_batches(self) -> int:
        """The number of steps of an epoch."""
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Images]:
        return (self.images[self.batches[index]],)
