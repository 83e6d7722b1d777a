"""What accompanies `fit`: clock, history, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fmicl_keras.batches import EpochBatches
from fmicl_keras.build import state
from fmicl_keras.checkpoints import to_numpy
from fmicl_recipes.history import epoch_row, knn, warn_of_collapse
from fmicl_recipes.progress import Progress
from fmicl_recipes.trainer import NonFiniteLossError, Trainer


class Run(keras.callbacks.Callback):
    """Keeps the trainer's history and seconds, and saves its state after every epoch.

    Args:
        trainer: trainer whose run is accompanied.
        batches: batches of the run.
        bar: progress bar of the run.
        save: function that writes checkpoint and history.

    Raises:
        NonFiniteLossError: the loss or a weight is not finite; the message says at which step.
    """

    def __init__(
        self, trainer: Trainer, batches: EpochBatches, bar: Progress, save: Callable[[], None]
    ) -> None:
        super().__init__()
        self.trainer, self.batches, self.bar, self.save = trainer, batches, bar, save

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the epoch's order and clock."""
        self.batches.start(epoch)
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop at the first loss that is not finite; Keras' mean is so from that step on."""
        epoch = len(self.trainer.history)
        if not math.isfinite(logs["loss"]):
            step = epoch * self.batches.num_batches + batch
            raise NonFiniteLossError.at(logs["loss"], step, epoch + 1)
        self.bar.advance(epoch + 1, logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop the clock, refuse broken weights, measure, save."""
        elapsed = time.perf_counter() - self.began
        trainer, steps = self.trainer, (epoch + 1) * self.batches.num_batches
        trainer.seconds += elapsed
        if not all(np.isfinite(to_numpy(variable)).all() for variable in state(self.model)):
            raise NonFiniteLossError.weights(steps)
        images = self.batches.num_batches * self.batches.batch_size
        measured = {"images_per_second": images / elapsed}
        every = trainer.settings.knn_every
        if every and (epoch + 1) % every == 0:
            self.bar.say("evaluating")
            measured |= knn(trainer)
        x, y = np.moveaxis(to_numpy(self.model.last.views), 1, 0)
        trainer.history.append(epoch_row(epoch + 1, steps, logs["loss"], x, y, **measured))
        self.bar.end_epoch(trainer.history[-1])
        self.save()
        warn_of_collapse(trainer.history)
