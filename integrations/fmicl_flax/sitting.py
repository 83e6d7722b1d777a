"""One call of `fit`, from where a run stands to its end or to where it is stopped."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from fmicl_flax.checkpoints import Saver
from fmicl_flax.clock import Clock
from fmicl_flax.compiled import all_finite
from fmicl_flax.machines import Agreement, meet
from fmicl_flax.method import Contrast
from fmicl_recipes.batches import Batches
from fmicl_recipes.board import Board
from fmicl_recipes.history import epoch_row, knn, warn_of_collapse
from fmicl_recipes.progress import LOOK, Progress
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.stopping import NonFiniteLossError, Preempted
from fmicl_recipes.stream import Item
from fmicl_recipes.trainer import Trainer


class SteppedTrainer(Trainer):
    """A trainer whose steps can be started one by one; `Sitting` does the rest of `fit`."""

    #: Devices to train on.
    mesh: Mesh
    #: What each step trains on.
    batches: Batches
    #: Number of steps of an epoch, and of the whole run.
    per_epoch: int
    steps: int
    #: Arrays of method and optimiser.
    state: nnx.State
    #: Losses of the steps that are done of an epoch that is not.
    losses: list[float]

    @property
    def done(self) -> int:
        """Number of steps done."""
        return len(self.history) * self.per_epoch + len(self.losses)

    @abstractmethod
    def items(self, start: int) -> Generator[Item]:
        """What `step` takes for each step from number `start` on."""

    @abstractmethod
    def step(self, step: int, item: Item) -> Contrast:
        """Start a step, by its number from 0, with what `items` has for it."""

    @abstractmethod
    def checkpoint(self) -> tuple[Any, dict[str, Any]]:
        """What a checkpoint holds: a copy of the state, and facts."""


class Sitting:
    """Trains, tells how it goes and writes checkpoints; of several processes the first one writes.

    A loss is read when the next step has been started: reading waits until it is computed, and by
    then the device has something to do. With the loss comes whether the run is to stop.

    Args:
        trainer: what is trained.
        folder: folder of the run.
        progress: whether to show a progress bar.
    """

    def __init__(self, trainer: SteppedTrainer, folder: RunFolder, progress: bool) -> None:
        self.trainer, self.folder, self.settings = trainer, folder, trainer.settings
        self.stack = ExitStack()
        self.saver = self.stack.enter_context(Saver())
        self.clock = self.stack.enter_context(closing(Clock()))
        self.items = self.stack.enter_context(closing(trainer.items(trainer.done)))
        self.board: Board | None = None
        if trainer.process.index == 0:
            self.board = Board(folder.path / "tensorboard")
            self.stack.enter_context(closing(self.board.writer))
        self.bar = Progress(self.settings.title, self.settings.epochs, trainer.steps,
                            trainer.done, shown=progress)  # fmt: skip
        self.stack.enter_context(closing(self.bar))
        self.agree = Agreement(trainer.mesh, trainer.process)
        self.running: deque[tuple[Contrast, bool | jax.Array]] = deque()
        self.stopping = False

    def __enter__(self) -> Sitting:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    def train(self) -> None:
        """Train to the end, see `Trainer.fit`."""
        bool(self.agree(False))  # connects processes now, and not after minutes of compiling
        for epoch in range(len(self.trainer.history) + 1, self.settings.epochs + 1):
            self._epoch(epoch)
            if self.trainer.process.index == 0:
                warn_of_collapse(self.trainer.history)

    def _epoch(self, epoch: int) -> None:
        """Train to the end of an epoch (from 1)."""
        trainer, every = self.trainer, self.settings.checkpoint_every
        start, end = trainer.done, epoch * trainer.per_epoch
        self.clock.restart()
        for done in range(start + 1, end + 1):
            asked = self.agree(trainer.stop())
            contrast = trainer.step(done - 1, self.clock.next(self.items))
            self.clock.started(contrast[0])
            self.running.append((contrast, asked))
            if len(self.running) > 1:
                self._read(epoch)
            if not (self.stopping or done == end or (every and done % every == 0)):
                continue
            x, y = map(np.asarray, self._read(epoch))
            trainer.seconds += self.clock.lap()
            if not all_finite(trainer.state):
                raise NonFiniteLossError.weights(done)
            if done == end:
                row = self._row(epoch, x, y, (end - start) * self.settings.batch_size)
                trainer.history.append(row)
                trainer.losses = []
                self.bar.end_epoch(row)
            self._save()
            if self.stopping:
                self.saver.wait()
                raise Preempted.after(done)

    def _read(self, epoch: int) -> tuple[jax.Array, jax.Array]:
        """Wait for the step that has run longest; what its loss compared."""
        (result, *features), asked = self.running.popleft()
        trainer, loss = self.trainer, float(result)
        if not np.isfinite(loss):
            raise NonFiniteLossError.at(loss, trainer.done, epoch)
        self._write({"loss_step": loss})
        trainer.losses.append(loss)
        self.stopping |= bool(asked)
        if len(trainer.losses) % LOOK == 0:
            self.bar.waited(self.clock.idle_share)
        self.bar.advance(epoch, loss)
        return features[0], features[1]

    def _row(self, epoch: int, x: Any, y: Any, images: int) -> dict[str, float]:
        """The history's row of an epoch, with the features x, y of its last batch.

        Args:
            epoch: number of the epoch, from 1.
            x: first array that the last loss compared.
            y: second array that the last loss compared.
            images: number of images of this sitting.
        """
        trainer, clock = self.trainer, self.clock
        measured = {
            "images_per_second": images / clock.elapsed, "data_wait": clock.idle_share,
        }  # fmt: skip
        self.bar.waited(clock.idle_share)
        every = self.settings.knn_every
        if every and epoch % every == 0:
            if trainer.process.index == 0:
                self.bar.say("evaluating")
                measured |= knn(trainer)
            meet()
        loss, done = float(np.mean(trainer.losses)), trainer.done
        objective, ids = self.settings.used_objective, trainer.batches.whole_ids(done - 1)
        row = epoch_row(epoch, done, loss, x, y, objective, ids, **measured)
        logged = {name: row[name] for name in row if name not in ("epoch", "step", "loss")}
        self._write({"loss_epoch": row["loss"], **logged})
        return row

    def _write(self, values: dict[str, float]) -> None:
        if self.board is not None:
            self.board.write(values, self.trainer.done)

    def _save(self) -> None:
        if self.trainer.process.index == 0:
            self.saver.save(self.folder, self.trainer.done, *self.trainer.checkpoint())
