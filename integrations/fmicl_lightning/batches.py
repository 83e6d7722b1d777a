"""Batches of images from memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from fmicl_recipes.data import Images
from fmicl_recipes.runs import epoch_batches


class ImageBatches(Dataset[torch.Tensor]):
    """uint8 images (N, H, W, C), indexed by a whole batch of indices at once."""

    def __init__(self, images: Images) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.images[index]


class EpochOrder(Sampler[torch.Tensor]):
    """Indices of whole batches, shuffled by (seed, epoch); a last partial batch is left out.

    Of several devices each takes its share of every batch, in the order of the devices.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in epoch_batches(self.count, self.batch_size, self.seed, self.epoch):
            yield torch.from_numpy(_share(batch))


def _share(batch: NDArray[np.int64]) -> NDArray[np.int64]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return batch
    parts = np.split(batch, torch.distributed.get_world_size())
    return parts[torch.distributed.get_rank()]


def loader(images: Images, batch_size: int, seed: int) -> DataLoader[torch.Tensor]:
    """Batches of uint8 images for training."""
    sampler = EpochOrder(len(images), batch_size, seed)
    return DataLoader(ImageBatches(images), batch_size=None, sampler=sampler)
