"""The steps of a Keras trainer, without its run folder."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import keras

from fmicl_keras.method import LastViews
from fmicl_keras.trainer import MethodTrainer
from fmicl_recipes.batches import Batches


class Losses(keras.callbacks.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep the loss that the step returned."""
        self.values.append(float(logs[LastViews.LOSS]))


def fit(trainer: MethodTrainer) -> list[float]:
    """The loss of every step of a training by `keras.Model.fit`."""
    settings, losses = trainer.settings, Losses()
    batches = Batches(trainer.data, settings, trainer.ids, trainer.process)
    with trainer.devices.scope(), closing(trainer.feed(batches, 0)) as feed:
        trainer.compile()
        trainer.model.fit(
            feed.take(batches.steps), steps_per_epoch=batches.per_epoch, epochs=settings.epochs,
            shuffle=False, verbose=0, callbacks=[losses],
        )  # fmt: skip
    return losses.values
