"""The batches of a run as Lightning asks for them: an epoch at a time, from one stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmicl_recipes.batches import Batches
from fmicl_recipes.data import ImageData
from fmicl_recipes.machines import ALONE, Process
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stream import stream

#: Images of a batch, or images and their ids.
Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


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


class EpochBatches:
    """The batches of a run by the number of the step; an iteration is the rest of an epoch.

    One stream goes through all epochs, so that workers need not start anew in each.

    Args:
        data: images of the run.
        settings: options of the run.
        ids: numbers (N,) to give with the images, which say which belong together; None gives none.
        pinned: whether batches lie in memory from which a GPU takes them beside its work.
    """

    def __init__(
        self, data: ImageData, settings: TrainSettings, ids: NDArray[np.int32] | None = None,
        *, pinned: bool = False,
    ) -> None:  # fmt: skip
        self.data, self.settings, self.ids, self.pinned = data, settings, ids, pinned
        #: Number of steps done, and seconds in which training waited for its batches.
        self.step, self.waited = 0, 0.0
        self.stream: Generator[Batch] | None = None

    def begin(
        self, step: int = 0, process: Process = ALONE, device: torch.device | None = None
    ) -> None:
        """Start the stream.

        Args:
            step: number of the first step.
            process: this process among those that share every batch.
            device: device on which all images are kept, and their batches made; None for none.
        """
        self.close()
        batches = Batches(self.data, self.settings, self.ids, process)
        self.step = step
        self.stream = self._read(batches) if device is None else self._take(batches, device)

    def close(self) -> None:
        """End the stream, and the processes that work for it."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def __len__(self) -> int:
        """Number of steps of an epoch."""
        return len(self.data.train_images) // self.settings.batch_size

    def __iter__(self) -> Iterator[Batch]:
        left = len(self) - self.step % len(self)
        for _ in range(left):
            assert self.stream is not None
            start = time.perf_counter()
            batch = next(self.stream)
            self.step, self.waited = self.step + 1, self.waited + time.perf_counter() - start
            yield batch

    def _read(self, batches: Batches) -> Generator[Batch]:
        with closing(stream(batches, self.step, batches.workers)) as items:
            for item in items:
                parts = [torch.from_numpy(part) for part in item.values()]
                images, *ids = [part.pin_memory() for part in parts] if self.pinned else parts
                yield (images, ids[0]) if ids else images

    def _take(self, batches: Batches, device: torch.device) -> Generator[Batch]:
        images = torch.from_numpy(batches.images).to(device)
        ids = None if batches.ids is None else torch.from_numpy(batches.ids).to(device)
        for step in range(self.step, len(batches)):
            rows = torch.from_numpy(batches.rows(step)).to(device, non_blocking=True)
            yield images[rows] if ids is None else (images[rows], ids[rows])
