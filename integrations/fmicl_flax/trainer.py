"""The trainer of `fmicl train --framework jax`, by Flax, Optax and Orbax."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from fmicl_flax.build import build_method
from fmicl_flax.checkpoints import Saver, load_checkpoint
from fmicl_flax.compiled import all_finite, encode_all, project, train_step
from fmicl_flax.devices import everywhere, find_devices, free_memory, place
from fmicl_flax.method import Contrast, Method
from fmicl_flax.optimizers import build_optimizer
from fmicl_recipes.board import Board
from fmicl_recipes.chunks import filled_chunks
from fmicl_recipes.data import ImageData, Images, StoredImages
from fmicl_recipes.draws import epoch_batches
from fmicl_recipes.history import epoch_row, knn, warn_of_collapse
from fmicl_recipes.progress import Progress
from fmicl_recipes.run_folder import RunFolder, unreadable_checkpoint
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.trainer import NonFiniteLossError, Trainer, check_fits

T = TypeVar("T")


class MethodTrainer(Trainer):
    """The trainer of a method in JAX; `method` is the Flax module with its present weights."""

    framework = "jax"

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Check that there are such devices, see `Trainer.check`."""
        find_devices(settings)

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        super().__init__(settings, data)
        self.mesh = find_devices(settings)
        if settings.cache == "gpu":
            check_fits(data.train_images, free_memory(self.mesh))
        self.per_epoch = len(data.train_images) // settings.batch_size
        self.steps = self.per_epoch * settings.epochs
        with jax.default_device(self.mesh.devices.flat[0]):
            method = build_method(settings, data.train_images.shape[1:], self.mesh)
        optimizer = build_optimizer(
            settings.optimizer, settings.lr, settings.momentum, settings.weight_decay,
            self.steps, self.per_epoch * settings.warmup_epochs,
        )  # fmt: skip
        both = method, nnx.Optimizer(method, optimizer, wrt=method.trained)
        self.graph, state = nnx.split(both)
        # That of a method without arrays, as the first step takes the arrays of this one.
        self.plan = nnx.merge(self.graph, jax.eval_shape(lambda: state))[0].plan
        self.state = jax.device_put(state, everywhere(self.mesh))
        self.key = jax.random.key(settings.seed)

    @cached_property
    def kept(self) -> dict[str, jax.Array] | None:
        """All samples, a copy on each device, with cache = "gpu"; else None.

        Each device needs all of them, since every batch is drawn from all. Not yet run on a GPU.
        """
        if self.settings.cache != "gpu":
            return None
        every = self._samples(slice(None))
        kept: dict[str, jax.Array] = jax.device_put(every, everywhere(self.mesh))
        return kept

    @property
    def method(self) -> Method:
        """A copy of the method with its weights."""
        method: Method = nnx.merge(self.graph, self.state, copy=True)[0]
        return method

    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end, see `Trainer.fit`."""
        if resume and folder.checkpoint.exists():
            self.load(folder)
        done = len(self.history)
        board = Board(folder.path / "tensorboard")
        bar = Progress(self.settings.title, self.settings.epochs, self.steps,
                       done * self.per_epoch, shown=progress)  # fmt: skip
        with closing(board.writer), closing(bar), Saver() as self.saver:
            for epoch in range(done + 1, self.settings.epochs + 1):
                row = self._epoch(epoch, board, bar)
                self.history.append(row)
                bar.end_epoch(row)
                self._save(folder, step=epoch * self.per_epoch)
                warn_of_collapse(self.history)

    def _epoch(self, epoch: int, board: Board, bar: Progress) -> dict[str, float]:
        """Train for one epoch (from 1) and return its row of the history."""
        step, losses, start = (epoch - 1) * self.per_epoch, [], time.perf_counter()
        for last in _one_behind(self._steps(epoch)):
            loss = float(last[0])
            if not np.isfinite(loss):
                raise NonFiniteLossError.at(loss, step, epoch)
            board.write({"loss_step": loss}, step)
            bar.advance(epoch, loss)
            losses.append(loss)
            step += 1
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        if not all_finite(self.state):
            raise NonFiniteLossError.weights(step)
        measured = {"images_per_second": len(losses) * self.settings.batch_size / elapsed}
        if self.settings.knn_every and epoch % self.settings.knn_every == 0:
            bar.say("evaluating")
            measured |= knn(self)
        x, y = map(np.asarray, last[1:])
        row = epoch_row(epoch, step, float(np.mean(losses)), x, y, **measured)
        logged = {name: row[name] for name in row if name not in ("epoch", "step", "loss")}
        board.write({"loss_epoch": row["loss"], **logged}, step)
        return row

    def _steps(self, epoch: int) -> Iterator[Contrast]:
        """Start the steps of an epoch (from 1), one at a time."""
        settings, first = self.settings, (epoch - 1) * self.per_epoch
        count = len(self.data.train_images)
        order = epoch_batches(count, settings.batch_size, settings.seed, epoch - 1)
        for step, batch in enumerate(order, start=first):
            plan = self.plan(step, self.steps, settings.batch_size)
            if self.kept is None:
                samples, rows, plan = place(self.mesh, self._samples(batch), None, plan)
            else:
                samples, (rows, plan) = self.kept, place(self.mesh, batch.astype(np.int32), plan)
            self.state, contrast = train_step(
                self.graph, self.mesh, self.state, samples, rows, plan, self.key
            )
            yield contrast

    def _samples(self, batch: NDArray[np.int64] | slice) -> dict[str, NDArray[Any]]:
        """Images of a batch and, if supervised, their ids."""
        samples = {"images": self.data.train_images[batch]}
        return samples if self.ids is None else samples | {"ids": self.ids[batch]}

    def _save(self, folder: RunFolder, step: int) -> None:
        state = jax.device_get(nnx.to_pure_dict(self.state))
        facts = {"history": list(self.history), "seconds": self.seconds}
        self.saver.save(folder, f"step-{step}", state, facts)

    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""
        like = nnx.to_pure_dict(self.state)
        state, facts = load_checkpoint(folder, like, everywhere(self.mesh))
        if not facts.keys() >= {"history", "seconds"}:
            raise unreadable_checkpoint(folder.checkpoint)
        nnx.replace_by_pure_dict(self.state, state)
        self.history, self.seconds = list(facts["history"]), facts["seconds"]

    def encode(self, images: Images | StoredImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""
        return encode_all(self.graph, self.state, images)

    def project(self, images: Images) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, drawn by `settings.seed`."""
        pairs = [
            project(self.graph, self.state, chunk, jax.random.fold_in(self.key, number))
            for number, chunk in enumerate(filled_chunks(images))
        ]
        x, y = (np.concatenate(list(map(np.asarray, side))) for side in zip(*pairs, strict=True))
        return x[: len(images)], y[: len(images)]


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield every item only when the next one has been made.

    Reading a loss waits until it is computed; by then the device already has the next step.
    """
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
