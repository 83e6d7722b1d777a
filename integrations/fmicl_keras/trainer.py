"""The trainer of `fmicl train --framework tensorflow`, by Keras on any of its backends."""

from __future__ import annotations

from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import keras

from fmicl_core.checks import invalid
from fmicl_keras.batches import Feed
from fmicl_keras.build import build_method, check_precision, state
from fmicl_keras.callbacks import Run
from fmicl_keras.checkpoints import load_checkpoint, save_checkpoint, to_numpy
from fmicl_keras.devices import Devices
from fmicl_keras.machines import lost, over_machines
from fmicl_keras.method import LastViews, Method
from fmicl_keras.optimizers import WarmupCosine, build_optimizer
from fmicl_keras.weights import get_arrays, set_arrays
from fmicl_recipes.batches import Batches
from fmicl_recipes.chunks import chunk_size, filled_chunks, joined
from fmicl_recipes.data import AnyImages, ImageData
from fmicl_recipes.progress import Progress
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.stopping import Preempted, saving
from fmicl_recipes.trainer import Trainer
from fmicl_recipes.weights import Weights


class MethodTrainer(Trainer):
    """The trainer of a method in Keras; `model` is the keras.Model.

    Args:
        settings: as for `Trainer`.
        data: as for `Trainer`.

    Raises:
        ValueError: settings and data do not fit, or Keras runs on another backend than they say.
    """

    framework = "tensorflow"

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Check the backend, its devices and its numbers, see `Trainer.check`."""
        if settings.keras_backend != keras.config.backend():
            raise invalid(
                "keras_backend", f"{keras.config.backend()!r}, the backend Keras runs on",
                settings.keras_backend,
                why="Keras takes it from KERAS_BACKEND when it is imported, and keeps it.",
            )  # fmt: skip
        check_precision(settings)
        Devices(settings)

    @classmethod
    def join(cls, settings: TrainSettings) -> None:
        """Join the other processes of the run, see `Trainer.join`."""
        if settings.machines > 1:
            over_machines(settings.device, settings.devices)

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        super().__init__(settings, data)
        self.check(settings)
        self.steps = len(data.train_images) // settings.batch_size
        #: Losses of the steps of the open epoch.
        self.losses: list[float] = []
        self.devices = Devices(settings)
        with self.devices.scope():
            total = self.steps * settings.epochs
            self.model = build_method(settings, data.train_images.shape[1:], total)
        with self.devices.alone():
            self.encoding = Applied(self.model, "features")
            self.projecting = Applied(self.model, "project")
        self.first_seeds = [to_numpy(v) for v in self._seeds()]

    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end, see `Trainer.fit`."""
        settings = self.settings
        with lost() if self.devices.machines else nullcontext(), self.devices.scope():
            self.compile()
            if resume and folder.checkpoint.exists():
                self._check_velocities(folder)
                self._restore(folder, with_optimizer=True)
            batches = Batches(self.data, settings, self.ids, self.process)
            start = len(self.history) * self.steps + len(self.losses)
            bar = Progress(settings.title, settings.epochs, batches.steps, start, shown=progress)
            with closing(bar), closing(self.feed(batches, start)) as feed:
                run = Run(self, self.losses, feed, bar, partial(self._save, folder))
                while (epoch := len(self.history)) < settings.epochs:
                    # What is left of an open epoch has a call of its own.
                    steps = self.steps - len(self.losses)
                    end = epoch + 1 if self.losses else settings.epochs
                    self.model.fit(
                        feed.take((end - epoch) * steps), steps_per_epoch=steps,
                        initial_epoch=epoch, epochs=end, shuffle=False, verbose=0, callbacks=[run],
                    )  # fmt: skip
                    if run.stop:
                        raise Preempted.after(run.step)

    def _check_velocities(self, folder: RunFolder) -> None:
        """Check that the optimiser's state means what it means here.

        Raises:
            ValueError: it is of format 1, whose velocities had the learning rates in them.
        """
        if folder.format_version < 2 and self.settings.optimizer in ("sgd", "lars"):
            raise invalid(
                "resume", f"a run of format 2 with optimizer = {self.settings.optimizer!r}",
                folder.format_version, what="format_version",
                why="Before, Keras' velocities had the learning rates in them; fmicl 0.1.0 goes on"
                " with this run. `fmicl evaluate` reads it, and --init begins with its weights.",
            )  # fmt: skip

    def feed(self, batches: Batches, start: int) -> Feed:
        """The batches of a run from a step on, with what the method plans for each."""
        plan = partial(self.model.plan, count=self.settings.batch_size)
        return Feed(batches, start, self.devices.machines, plan)

    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""
        self._restore(folder, with_optimizer=False)

    def compile(self) -> None:
        """Give the model its optimiser and schedule."""
        settings, weights = self.settings, self.model.trainable_weights
        steps, warmup = (self.steps * n for n in (settings.epochs, settings.warmup_epochs))
        optimizer = build_optimizer(
            weights, settings.optimizer,
            WarmupCosine(settings.lr, steps, warmup, self.model.compute_dtype),
            settings.momentum, settings.weight_decay,
        )  # fmt: skip
        optimizer.build(weights)
        self.model.last = LastViews(
            settings.batch_size, settings.projection_dim, self.model.compute_dtype
        )
        self.model.compile(optimizer)

    def _save(self, folder: RunFolder, step: int) -> None:
        if keras.config.backend() == "jax":  # whose variables are empty while it trains
            self.model.jax_state_sync()
        if self.process.index > 0:  # the first one writes
            return
        facts = {"history": self.history, "seconds": self.seconds, "losses": self.losses}
        with saving(step):
            save_checkpoint(folder.checkpoint, self._variables(with_optimizer=True), facts)
            folder.write_history(self.history)

    def _restore(self, folder: RunFolder, *, with_optimizer: bool) -> None:
        variables = self._variables(with_optimizer=with_optimizer)
        self.history, self.seconds, self.losses = load_checkpoint(folder.checkpoint, variables)

    def _variables(self, *, with_optimizer: bool) -> dict[str, list[Any]]:
        groups = {"model": state(self.model)}
        return groups | {"optimizer": self.model.optimizer.variables} if with_optimizer else groups

    def arrays(self) -> Weights:
        """Copies of all arrays of the method, see `Trainer.arrays`."""
        return get_arrays(self.model)

    def set_arrays(self, arrays: Weights) -> None:
        """Give the method arrays by name, see `Trainer.set_arrays`."""
        set_arrays(self.model, arrays)

    def encode(self, images: AnyImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""
        return self._apply(self.encoding, images)

    def project(self, images: AnyImages) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of images, see `Trainer.project`."""
        now = [to_numpy(v) for v in self._seeds()]
        self._set_seeds(self.first_seeds)
        views = self._apply(self.projecting, images)
        self._set_seeds(now)
        return views[:, 0], views[:, 1]

    def _apply(self, model: keras.Model, images: AnyImages) -> Features:
        with self.devices.alone():
            return predict(model, images, 1 if self.devices.machines else self.devices.count)

    def _seeds(self) -> list[Any]:
        return self.model.augment.non_trainable_variables

    def _set_seeds(self, values: list[Any]) -> None:
        for variable, value in zip(self._seeds(), values, strict=True):
            variable.assign(value)


def predict(
    model: keras.Model, images: AnyImages, devices: int = 1, *, progress: bool = False
) -> Features:
    """A model's output for images, part by part and filled up, so that one program serves.

    Args:
        model: model of a batch of images.
        images: uint8 images.
        devices: number of devices that share a part.
        progress: whether to show a progress bar on a terminal.
    """
    size = -(-chunk_size(images.shape) // devices) * devices
    # The one has less to do before it starts, the other shares the part out.
    parts = (
        model.predict_on_batch(chunk) if devices == 1
        else model.predict(chunk, batch_size=size, verbose=0)
        for chunk in filled_chunks(images, size)
    )  # fmt: skip
    return joined(parts, len(images), progress=progress)


class Applied(keras.Model):
    """A model whose output is a function of a method, for `predict`."""

    def __init__(self, method: Method, name: str) -> None:
        super().__init__(dtype="float32")
        self.method, self.function = method, name
        self.built = True

    def call(self, images: Any) -> Any:
        """The function's result for uint8 images (N, H, W, C)."""
        return getattr(self.method, self.function)(images)
