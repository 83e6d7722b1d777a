"""What accompanies a training run: atomic checkpoints, clock and history, one progress bar."""

from __future__ import annotations

import logging
import pickle
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm.auto import tqdm

from fmicl_recipes.run_folder import RunFolder, unreadable_checkpoint, write_atomically
from fmicl_recipes.runs import Trainer, knn

#: Where Lightning's advice comes from.
LOGGERS = [
    logging.getLogger(f"lightning.{name}")
    for name in ("pytorch", "fabric", "pytorch.utilities.rank_zero")
]


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, then replace it."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read on the CPU what `save_checkpoint` wrote; whatever is asked for, no code of it runs.

        Raises:
            ValueError: the file is damaged, or holds more than tensors and plain values.
        """
        with open(path, "rb") as file:
            try:
                found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
                raise unreadable_checkpoint(path) from error
        return found


def checkpointing(folder: RunFolder) -> ModelCheckpoint:
    """One checkpoint, replaced after every epoch."""
    return ModelCheckpoint(
        dirpath=folder.path,
        filename=folder.checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


class RunClock(Callback):
    """Seconds of training, over all the sittings of a run; history.csv with every checkpoint.

    Args:
        run: the trainer whose run it is.
        folder: of the run.
        images: per epoch, on all devices.
    """

    def __init__(self, run: Trainer, folder: RunFolder, images: int) -> None:
        self.run, self.folder, self.images = run, folder, images
        self.seconds = 0.0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Be quiet in a process of one's own, too, which knows nothing of its parent's filters."""
        if trainer.world_size > 1:
            _hush()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the epoch's clock, then measure what was asked for; called before the module's."""
        elapsed = time.perf_counter() - self.start
        self.seconds += elapsed
        pl_module.measured = {"images_per_second": self.images / elapsed}
        every = self.run.settings.knn_every
        if every and (trainer.current_epoch + 1) % every == 0 and trainer.is_global_zero:
            pl_module.measured |= knn(self.run)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """The history file follows the checkpoint."""
        if trainer.is_global_zero:
            self.folder.write_history(pl_module.history)

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Seconds so far, from the checkpoint."""
        self.seconds = state_dict["seconds"]


class Progress(Callback):
    """One bar for the whole run."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs = title, epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar, at the resumed step if there is one."""
        total = int(trainer.estimated_stepping_batches)
        self.bar = tqdm(
            total=total, initial=trainer.global_step, desc=self.title, unit="step",
            disable=not trainer.is_global_zero,
        )  # fmt: skip

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by one step."""
        self.bar.set_postfix(
            epoch=f"{trainer.current_epoch + 1}/{self.epochs}",
            loss=f"{outputs['loss'].item():.4f}",
            refresh=False,
        )
        self.bar.update()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the bar."""
        if hasattr(self, "bar"):
            self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Leave Lightning's advice out meanwhile: workers, tips, devices."""
    levels = [(logger, logger.level) for logger in LOGGERS]
    with warnings.catch_warnings():
        _hush()
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def _hush() -> None:
    for logger in LOGGERS:
        logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
