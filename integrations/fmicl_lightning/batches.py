"""Batches of images from memory, in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from fmicl_recipes.data import ImageData
from fmicl_recipes.draws import epoch_batches


@dataclass(frozen=True)
class SharedData(ImageData):
    """Image data in shared memory: a process that is started gets handles of it, no copy."""

    def __post_init__(self) -> None:
        arrays = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        shared = {k: torch.from_numpy(v).share_memory_() for k, v in arrays.items()}
        self.__setstate__(vars(self) | shared)

    def __getstate__(self) -> dict[str, Any]:
        """Tensors in the place of the arrays, as PyTorch passes tensors on as handles."""
        tensors: dict[str, Any] = vars(self)["tensors"]
        return tensors

    def __setstate__(self, tensors: dict[str, Any]) -> None:
        """Arrays over the tensors' memory."""
        for name, value in tensors.items():
            vars(self)[name] = value.numpy() if isinstance(value, torch.Tensor) else value
        vars(self)["tensors"] = tensors


#: Images of a batch, or images and their ids.
Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class ImageBatches(Dataset[Batch]):
    """The training images, uint8 (N, H, W, C), indexed by a whole batch of indices at once.

    Args:
        data: images of the run.
        ids: numbers (N,) to give with the images, which say which belong together; None gives none.
    """

    def __init__(self, data: ImageData, ids: NDArray[np.int32] | None = None) -> None:
        self.data = data
        self.ids = None if ids is None else torch.from_numpy(ids)
        #: All images as one array on a device, once they are placed there.
        self.images: torch.Tensor | None = None

    def place(self, device: torch.device) -> None:
        """Keep images and ids on a device, from which every later batch is taken there."""
        self.images = torch.from_numpy(self.data.train_images).to(device)
        self.ids = None if self.ids is None else self.ids.to(device)

    def __len__(self) -> int:
        return len(self.data.train_images)

    def __getitem__(self, index: torch.Tensor) -> Batch:
        if self.images is None:
            images = torch.from_numpy(self.data.train_images[index.numpy()])
        else:
            index = index.to(self.images.device, non_blocking=True)
            images = self.images[index]
        return images if self.ids is None else (images, self.ids[index])


class EpochOrder(Sampler[torch.Tensor]):
    """Indices of whole batches, shuffled by (seed, epoch); a last partial batch is left out.

    Each of several devices takes its share of every batch, in the order of the devices.
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


def loader(
    images: ImageBatches, batch_size: int, seed: int, *, pinned: bool = False
) -> DataLoader[Batch]:
    """Batches of uint8 images for training.

    Args:
        images: training images, and their ids if there are any.
        batch_size: number of images in a batch, of all devices together.
        seed: seed of their order.
        pinned: whether batches lie in memory from which a GPU takes them beside its work.
    """
    sampler = EpochOrder(len(images), batch_size, seed)
    return DataLoader(images, batch_size=None, sampler=sampler, pin_memory=pinned)
