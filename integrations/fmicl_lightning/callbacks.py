"""What accompanies a training run: checkpoints, clock and history, one progress bar."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from fmicl_lightning.batches import ImageBatches
from fmicl_recipes.history import knn
from fmicl_recipes.progress import Progress
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.trainer import Trainer

#: The loggers through which Lightning gives advice.
LOGGERS = [
    logging.getLogger(f"lightning.{name}")
    for name in ("pytorch", "fabric", "pytorch.utilities.rank_zero")
]


def checkpointing(folder: RunFolder) -> ModelCheckpoint:
    """The callback that replaces the run's one checkpoint after every epoch."""
    return ModelCheckpoint(
        dirpath=folder.path,
        filename=folder.checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


class RunClock(Callback):
    """Counts the seconds of training, over all resumptions; keeps the bar and history.csv.

    Args:
        run: trainer whose run is accompanied.
        folder: folder of the run.
        images: number of images an epoch, on all devices together.
        progress: whether a bar is shown.
    """

    def __init__(self, run: Trainer, folder: RunFolder, images: int, progress: bool) -> None:
        self.run, self.folder, self.images, self.progress = run, folder, images, progress
        self.seconds = 0.0
        self.opened = ExitStack()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Silence Lightning in the process of a device, which has no filters of its parent."""
        if trainer.world_size > 1:
            _hush()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar, at the resumed step if there is one."""
        settings = self.run.settings
        bar = Progress(
            settings.title, settings.epochs, int(trainer.estimated_stepping_batches),
            trainer.global_step, shown=self.progress and trainer.is_global_zero,
            waits_for="compiling" if settings.compile else "starting",
        )  # fmt: skip
        self.bar = self.opened.enter_context(closing(bar))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the step before this one, whose loss is known by now."""
        self._advance(trainer, pl_module, leaving=1)

    def _advance(self, trainer: Any, pl_module: Any, leaving: int = 0) -> None:
        for loss in pl_module.read_losses(leaving):
            self.bar.advance(trainer.current_epoch + 1, loss)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the epoch's clock, then measure kNN where it is due; called before the module's."""
        self._advance(trainer, pl_module)
        elapsed = time.perf_counter() - self.start
        self.seconds += elapsed
        pl_module.measured = {"images_per_second": self.images / elapsed}
        every = self.run.settings.knn_every
        if every and (trainer.current_epoch + 1) % every == 0 and trainer.is_global_zero:
            self.bar.say("evaluating")
            pl_module.measured |= knn(self.run)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Write the history whenever a checkpoint is written."""
        self.bar.end_epoch(pl_module.history[-1])
        if trainer.is_global_zero:
            self.folder.write_history(pl_module.history)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Read the last loss, and close the bar before the error is told."""
        with suppress(RuntimeError):  # which says the same, or that the device is broken
            self._advance(trainer, pl_module)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the bar."""
        self.opened.close()

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Seconds so far, from the checkpoint."""
        self.seconds = state_dict["seconds"]


class CachedImages(Callback):
    """Places the training images on the device that trains, in every process on its own.

    Args:
        batches: data set whose images are placed.
    """

    def __init__(self, batches: ImageBatches) -> None:
        self.batches = batches

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Place the images, before the first step."""
        self.batches.place(trainer.strategy.root_device)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advice on workers, devices and the like within the block."""
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
