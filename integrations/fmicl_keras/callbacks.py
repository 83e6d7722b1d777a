"""What accompanies `fit`: clock, losses, history, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fmicl_keras.batches import Feed
from fmicl_keras.build import state
from fmicl_keras.checkpoints import to_numpy
from fmicl_keras.method import LastViews
from fmicl_recipes.history import epoch_row, knn, warn_of_collapse
from fmicl_recipes.progress import LOOK, Progress
from fmicl_recipes.stopping import NonFiniteLossError
from fmicl_recipes.trainer import Trainer


class Run(keras.callbacks.Callback):
    """Keeps the trainer's history, seconds and losses, and saves its state when it is time.

    That is after every epoch, after every `checkpoint_every` steps, and when the run is to stop.

    Args:
        trainer: trainer whose run is accompanied.
        losses: losses of the steps of the open epoch, to go on with.
        feed: batches of the run.
        bar: progress bar of the run.
        save: function that writes checkpoint and history after a number of steps.

    Raises:
        NonFiniteLossError: the loss or a weight is not finite; the message says at which step.
    """

    def __init__(
        self, trainer: Trainer, losses: list[float], feed: Feed, bar: Progress,
        save: Callable[[int], None],
    ) -> None:  # fmt: skip
        super().__init__()
        self.trainer, self.losses, self.feed, self.bar, self.save = (
            trainer, losses, feed, bar, save
        )  # fmt: skip
        settings, self.several = trainer.settings, trainer.process.count > 1
        self.per_epoch = len(trainer.data.train_images) // settings.batch_size
        #: Whether the run is to stop, as it was asked to, and number of its steps so far.
        self.stop = False
        self.step = len(trainer.history) * self.per_epoch + len(losses)
        self._start_clock()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell the other processes whether this one was asked to stop."""
        if self.several:
            self.model.last.stop.assign(float(self.trainer.stop()))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep the loss, and stop where it is not finite; save and stop when it is time."""
        epoch, loss = len(self.trainer.history) + 1, logs[LastViews.LOSS]
        if not math.isfinite(loss):
            raise NonFiniteLossError.at(loss, self.step, epoch)
        self.losses.append(loss)
        self.step += 1
        self.bar.advance(epoch, logs["loss"])
        if self.step % LOOK == 0:
            self.bar.waited(self._waited())
        self.stop = logs[LastViews.STOP] > 0 if self.several else self.trainer.stop()
        if len(self.losses) == self.per_epoch:
            return  # the end of the epoch saves
        every = self.trainer.settings.checkpoint_every
        if self.stop or (every and self.step % every == 0):
            self._stop_clock()
            self.save(self.step)
        self.model.stop_training = self.stop

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop the clock, refuse broken weights, measure, save; not where the run stops before."""
        if len(self.losses) < self.per_epoch:
            return
        trainer, elapsed = self.trainer, self._stop_clock()
        if not all(np.isfinite(to_numpy(variable)).all() for variable in state(self.model)):
            raise NonFiniteLossError.weights(self.step)
        images = (len(self.losses) - self.before) * trainer.settings.batch_size
        measured = {"images_per_second": images / elapsed, "data_wait": self._waited()}
        self.bar.waited(measured["data_wait"])
        every = trainer.settings.knn_every
        if every and (epoch + 1) % every == 0 and trainer.process.index == 0:
            self.bar.say("evaluating")
            measured |= knn(trainer)
        x, y = np.moveaxis(to_numpy(self.model.last.views), 1, 0)
        loss = float(np.mean(self.losses))
        objective, ids = trainer.settings.used_objective, self.feed.batches.whole_ids(self.step - 1)
        row = epoch_row(epoch + 1, self.step, loss, x, y, objective, ids, **measured)
        trainer.history.append(row)
        self.losses.clear()
        self.bar.end_epoch(trainer.history[-1])
        self.save(self.step)
        warn_of_collapse(trainer.history)
        self.model.stop_training = self.stop = self.stop or (not self.several and trainer.stop())
        self._start_clock()

    def _start_clock(self) -> None:
        self.began = self.counted = time.perf_counter()
        self.before, self.feed.waited = len(self.losses), 0.0

    def _stop_clock(self) -> float:
        """Add what has passed to the run's seconds; those of the epoch in this sitting."""
        now = time.perf_counter()
        self.trainer.seconds += now - self.counted
        self.counted = now
        return now - self.began

    def _waited(self) -> float:
        """The share of the epoch in which training waited for a batch, in [0, 1]."""
        return min(1.0, self.feed.waited / (time.perf_counter() - self.began))
