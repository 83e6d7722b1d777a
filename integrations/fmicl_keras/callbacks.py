"""What accompanies `fit`: order of the images, clock, history, checkpoints, one progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tqdm.auto import tqdm

from fmicl_keras.checkpoint import to_numpy
from fmicl_recipes.data import Images
from fmicl_recipes.runs import (
    NonFiniteLossError,
    Trainer,
    epoch_batches,
    epoch_row,
    knn,
    warn_of_collapse,
)


class EpochBatches(keras.utils.PyDataset):
    """Batches of uint8 images, in an order that depends on (seed, epoch) alone.

    A last partial batch is left out. The epoch is the one `start` was told.
    """

    def __init__(self, images: Images, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start(0)

    def start(self, epoch: int) -> None:
        """Take the order of an epoch, from 0."""
        self.batches = epoch_batches(len(self.images), self.batch_size, self.seed, epoch)

    @property
    def num_batches(self) -> int:
        """Steps of an epoch."""
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Images]:
        return (self.images[self.batches[index]],)


class Run(keras.callbacks.Callback):
    """Keeps the trainer's history and seconds, and has its state saved after every epoch.

    Args:
        trainer: whose run it is.
        batches: what is trained on.
        save: writes checkpoint and history.

    Raises:
        NonFiniteLossError: the loss or a weight is not finite; the message says at which step.
    """

    def __init__(self, trainer: Trainer, batches: EpochBatches, save: Callable[[], None]) -> None:
        super().__init__()
        self.trainer, self.batches, self.save = trainer, batches, save

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's order and clock."""
        self.batches.start(epoch)
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop at the first loss that is not finite; Keras' mean is so from that step on."""
        if not math.isfinite(logs["loss"]):
            epoch = len(self.trainer.history)
            step = epoch * self.batches.num_batches + batch
            raise NonFiniteLossError.at(logs["loss"], step, epoch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop the clock, refuse broken weights, measure, save."""
        elapsed = time.perf_counter() - self.began
        trainer, steps = self.trainer, (epoch + 1) * self.batches.num_batches
        trainer.seconds += elapsed
        for weight in self.model.trainable_weights:
            if not np.isfinite(to_numpy(weight)).all():
                raise NonFiniteLossError.weights(steps)
        images = self.batches.num_batches * self.batches.batch_size
        measured = {"images_per_second": images / elapsed}
        every = trainer.settings.knn_every
        if every and (epoch + 1) % every == 0:
            measured |= knn(trainer)
        x, y = np.moveaxis(to_numpy(self.model.last.views), 1, 0)
        trainer.history.append(epoch_row(epoch + 1, steps, logs["loss"], x, y, **measured))
        self.save()
        warn_of_collapse(trainer.history)


class Progress(keras.callbacks.Callback):
    """One bar for the whole run."""

    def __init__(self, title: str, epochs: int, steps: int, epoch: int) -> None:
        super().__init__()
        self.title, self.epochs, self.steps, self.epoch = title, epochs, steps, epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the bar, at the resumed step if there is one."""
        self.bar = tqdm(
            total=self.epochs * self.steps, initial=self.epoch * self.steps, desc=self.title,
            unit="step",
        )  # fmt: skip

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Advance by one step."""
        self.bar.set_postfix(
            epoch=f"{self.epoch + 1}/{self.epochs}", loss=f"{logs['loss']:.4f}", refresh=False
        )
        self.bar.update()

    def close(self) -> None:
        """Close the bar, however the run ended."""
        if hasattr(self, "bar"):
            self.bar.close()
