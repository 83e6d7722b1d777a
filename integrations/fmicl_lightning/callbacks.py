"""What accompanies a training run: checkpoints, clock and history, one progress bar."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from fmicl_lightning.batches import EpochBatches
from fmicl_lightning.checkpoints import check_optimizers
from fmicl_lightning.processes import Peers, leave_signals_alone
from fmicl_recipes.history import knn
from fmicl_recipes.machines import Process
from fmicl_recipes.progress import LOOK, Progress
from fmicl_recipes.run_folder import RunFolder, unreadable_checkpoint
from fmicl_recipes.stopping import Preempted, saving
from fmicl_recipes.trainer import Trainer

#: The loggers through which Lightning gives advice, and PyTorch tells how it ends processes.
LOGGERS = [
    logging.getLogger(name)
    for name in (
        "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero",
        "torch.multiprocessing.spawn",
    )
]  # fmt: skip


def checkpointing(folder: RunFolder) -> ModelCheckpoint:
    """The callback that replaces the run's one checkpoint after every epoch."""
    return ModelCheckpoint(
        dirpath=folder.path,
        filename=folder.checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


class RunClock(Callback):
    """Counts the seconds of training, over all resumptions; keeps batches, bar and history.csv.

    It also writes the checkpoints within an epoch, and stops the run that was asked to stop.

    Args:
        run: trainer whose run is accompanied.
        folder: folder of the run.
        batches: batches of the run.
        progress: whether a bar is shown.
    """

    def __init__(
        self, run: Trainer, folder: RunFolder, batches: EpochBatches, progress: bool
    ) -> None:
        self.run, self.folder, self.batches, self.progress = run, folder, batches, progress
        self.seconds = 0.0
        #: When the open epoch began, or was resumed, and after which step; None between epochs.
        self.opened: tuple[float, int] | None = None
        self.bar: Progress | None = None
        self.peers: Peers | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Silence Lightning in the process of a device, which has no filters of its parent."""
        leave_signals_alone(trainer)
        if trainer.world_size > 1:
            _hush()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open bar and batches, at the resumed step if there is one."""
        settings = self.run.settings
        self._check_resumed(trainer, pl_module)
        self.peers = Peers(trainer.world_size)
        self.bar = Progress(
            settings.title, settings.epochs, int(trainer.estimated_stepping_batches),
            trainer.global_step, shown=self.progress and trainer.is_global_zero,
            waits_for="compiling" if settings.compile else "starting",
        )  # fmt: skip
        process = Process(trainer.global_rank, trainer.world_size)
        device = trainer.strategy.root_device if settings.cache == "gpu" else None
        self.batches.begin(trainer.global_step, process, device)
        self._open(trainer)

    def _check_resumed(self, trainer: Any, pl_module: Any) -> None:
        """Check what was taken from a checkpoint, if there was one; from here on training runs."""
        plugin = trainer.strategy.checkpoint_io
        if plugin.taken is not None:
            done = len(pl_module.history) * len(self.batches) + len(pl_module.losses)
            if trainer.global_step != done:
                raise unreadable_checkpoint(plugin.taken)
            check_optimizers(trainer.optimizers, plugin.taken)
        plugin.taken = None

    def _open(self, trainer: Any) -> None:
        self.opened, self.batches.waited = (time.perf_counter(), trainer.global_step), 0.0

    def _elapsed(self) -> float:
        return 0.0 if self.opened is None else time.perf_counter() - self.opened[0]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's clock, unless the run was asked to stop by the epoch before."""
        self._stop_if_asked(trainer)
        self._open(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the step before this one, whose loss is known by now; save where it is due."""
        step, every = trainer.global_step, self.run.settings.checkpoint_every
        asked = self._asked()
        self._advance(trainer, pl_module, leaving=1)
        if step % LOOK == 0 and self.bar is not None:
            self.bar.waited(self.batches.waited / self._elapsed())
        if step % len(self.batches) and (asked or (every and step % every == 0)):
            self._advance(trainer, pl_module)
            pl_module.check_weights()
            trainer.save_checkpoint(self.folder.checkpoint)
            if asked:
                raise Preempted.after(step)

    def _asked(self) -> bool:
        assert self.peers is not None
        return self.peers.agree(self.run.stop())

    def _stop_if_asked(self, trainer: Any) -> None:
        if self._asked():
            raise Preempted.after(trainer.global_step)

    def _advance(self, trainer: Any, pl_module: Any, leaving: int = 0) -> None:
        for loss in pl_module.read_losses(leaving):
            if self.bar is not None:
                self.bar.advance(trainer.current_epoch + 1, loss)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the epoch's clock, then measure kNN where it is due; called before the module's."""
        self._advance(trainer, pl_module)
        assert self.opened is not None
        assert self.bar is not None
        elapsed, images = self._elapsed(), self.run.settings.batch_size
        images *= trainer.global_step - self.opened[1]
        waited = self.batches.waited / elapsed
        self.seconds, self.opened = self.seconds + elapsed, None
        pl_module.measured = {"images_per_second": images / elapsed, "data_wait": waited}
        self.bar.waited(waited)
        every = self.run.settings.knn_every
        if every and (trainer.current_epoch + 1) % every == 0:
            if trainer.is_global_zero:
                self.bar.say("evaluating")
                pl_module.measured |= knn(self.run)
            assert self.peers is not None
            self.peers.wait()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop before the evaluation if the run was asked to stop by its last epoch."""
        self._stop_if_asked(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Write the history whenever a checkpoint is written."""
        if pl_module.history and trainer.is_global_zero:
            with saving(trainer.global_step):
                self.folder.write_history(pl_module.history)
            if self.bar is not None and not pl_module.losses:
                self.bar.end_epoch(pl_module.history[-1])

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Read the last loss, and close the bar before the error is told."""
        with suppress(RuntimeError):  # which says the same, or that the device is broken
            self._advance(trainer, pl_module)
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close bar and batches."""
        if self.bar is not None:
            self.bar.close()
        self.batches.close()
        if self.peers is not None:
            self.peers.close()

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds + self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Seconds so far, from the checkpoint."""
        self.seconds = state_dict["seconds"]


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
