"""The steps of a Lightning trainer, without its run folder."""

from __future__ import annotations

from typing import Any

import lightning

from fmicl_lightning.batches import EpochBatches
from fmicl_lightning.callbacks import quiet
from fmicl_lightning.trainer import PRECISIONS, MethodTrainer


class Losses(lightning.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, *given: Any) -> None:
        """Keep the loss that the step returned."""
        self.values.append(float(given[2]["loss"]))


def fit(trainer: MethodTrainer) -> list[float]:
    """The loss of every step of a training by `lightning.Trainer.fit`."""
    settings, losses = trainer.settings, Losses()
    batches = EpochBatches(trainer.data, settings, trainer.ids)
    batches.begin()
    with quiet():
        lightning.Trainer(
            max_epochs=settings.epochs, accelerator=settings.device, devices=1,
            precision=PRECISIONS[settings.precision], callbacks=[losses], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(trainer.module, batches)  # fmt: skip
    batches.close()
    return losses.values
