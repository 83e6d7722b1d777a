"""`Batches`: what every step of a run trains on, found by the number of the step alone.

The order of the images depends on (seed, epoch), their random crops on (seed, step). A run that
stopped anywhere, with any number of workers, processes and frameworks, therefore goes on with the
batches that it would have had.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.data import ImageData, StoredImages
from fmicl_recipes.draws import crop_draws, epoch_batches
from fmicl_recipes.machines import ALONE, Process
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stream import Item


class Batches:
    """The batches of a run, one a step; a last partial batch of an epoch is left out.

    A batch holds `images`, uint8 (N, H, W, C), or (N, V, H, W, C) where they are V random crops of
    every image, and `ids` (N,) if there are any.

    Args:
        data: images of the run.
        settings: options of the run.
        ids: numbers (N,) to give with the images, which say which belong together.
        process: this process among those that share every batch, of which it has its part.
    """

    def __init__(
        self, data: ImageData, settings: TrainSettings, ids: NDArray[np.int32] | None = None,
        process: Process = ALONE,
    ) -> None:  # fmt: skip
        self.images, self.ids, self.process = data.train_images, ids, process
        self.batch_size, self.seed = settings.batch_size, settings.seed
        self.views = settings.views if settings.method == "simclr" else 2
        self.strengths = settings.photo()
        stored = self.images if isinstance(self.images, StoredImages) else None
        #: The images where batches are made of crops of them; None where of themselves.
        self.cropped = stored if settings.crops_when_read else None
        #: Number of processes that make batches ahead.
        self.workers = 0 if stored is None else stored.workers
        #: Number of steps of an epoch.
        self.per_epoch = len(self.images) // self.batch_size
        self.steps = self.per_epoch * settings.epochs

    def __len__(self) -> int:
        return self.steps

    @property
    def nbytes(self) -> int:
        """Bytes of the images of a batch of this process."""
        images = self.batch_size // self.process.count * (1 if self.cropped is None else self.views)
        return images * int(np.prod(self.images.shape[1:]))

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of this process's part of a step's batch."""
        return self.process.part(self._whole(step))

    def _whole(self, step: int) -> NDArray[np.int64]:
        """The rows of a step's batch of all processes, each its part after those before it."""
        epoch, place = divmod(step, self.per_epoch)
        return _order(len(self.images), self.batch_size, self.seed, epoch)[place]

    def whole_ids(self, step: int) -> NDArray[np.int32] | None:
        """The ids (N,) of a step's batch of all processes, if there are any."""
        return None if self.ids is None else self.ids[self._whole(step)]

    def __getitem__(self, step: int) -> Item:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rows = self.rows(step)
        if self.cropped is not None:
            draws = self.process.part(crop_draws(self.batch_size, self.views, self.seed, step))
            images = self.cropped.crops(rows, draws, self.strengths)
        else:
            images = self.images[rows]
        return {"images": images} if self.ids is None else {"images": images, "ids": self.ids[rows]}


@lru_cache(maxsize=2)
def _order(count: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return epoch_batches(count, batch_size, seed, epoch)
