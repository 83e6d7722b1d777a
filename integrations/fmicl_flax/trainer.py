"""The trainer of `fmicl train --framework jax`, by Flax, Optax and Orbax."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx

from fmicl_flax.build import build_method
from fmicl_flax.checkpoints import load_checkpoint
from fmicl_flax.compiled import encode_all, project, train_step
from fmicl_flax.devices import everywhere, find_devices, free_memory, own_copy, place, put
from fmicl_flax.machines import join, together
from fmicl_flax.method import Contrast, Method
from fmicl_flax.optimizers import build_optimizer
from fmicl_flax.sitting import Sitting, SteppedTrainer
from fmicl_flax.weights import get_arrays, set_arrays
from fmicl_recipes.batches import Batches
from fmicl_recipes.checks import check_jax_precision
from fmicl_recipes.chunks import filled_chunks
from fmicl_recipes.data import AnyImages, ImageData
from fmicl_recipes.machines import find_process
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.stream import Item, stream
from fmicl_recipes.trainer import check_fits
from fmicl_recipes.weights import Weights


class MethodTrainer(SteppedTrainer):
    """The trainer of a method in JAX; `method` is the Flax module with its present weights.

    Args:
        settings: as for `Trainer`.
        data: as for `Trainer`.
    """

    framework = "jax"

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Check that there are such devices and such numbers, see `Trainer.check`."""
        check_jax_precision(settings.precision, bool(jax.config.read("jax_enable_x64")))
        if settings.machines == 1 or jax.distributed.is_initialized():  # or `join` would come late
            find_devices(settings)

    @classmethod
    def join(cls, settings: TrainSettings) -> None:
        """Meet the other processes, see `Trainer.join`."""
        join(settings, find_process(settings))

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        super().__init__(settings, data)
        settings = self.settings
        self.mesh = find_devices(settings)
        if settings.cache == "gpu":
            check_fits(data.train_images, free_memory(self.mesh))
        self.batches = Batches(data, settings, self.ids, self.process)
        self.per_epoch, self.steps = self.batches.per_epoch, self.batches.steps
        self.losses = []
        with jax.default_device(self.mesh.local_devices[0]):
            method = build_method(settings, data.train_images.shape[1:], self.mesh)
        optimizer = build_optimizer(
            settings.optimizer, settings.lr, settings.momentum, settings.weight_decay,
            self.steps, self.per_epoch * settings.warmup_epochs, method.dtype,
        )  # fmt: skip
        both = method, nnx.Optimizer(method, optimizer, wrt=method.trained)
        self.graph, state = nnx.split(both)
        # That of a method without arrays, as the first step takes the arrays of this one.
        self.plan = nnx.merge(self.graph, jax.eval_shape(lambda: state))[0].plan
        self.state = put(state, everywhere(self.mesh))
        self.key = jax.random.key(settings.seed)

    @cached_property
    def kept(self) -> dict[str, jax.Array] | None:
        """All samples, a copy on each device, with cache = "gpu"; else None.

        Each device needs all of them, since every batch is drawn from all. Not yet run on a GPU.
        """
        if self.settings.cache != "gpu":
            return None
        every: Any = {"images": self.data.train_images}
        every |= {} if self.ids is None else {"ids": self.ids}
        kept: dict[str, jax.Array] = put(every, everywhere(self.mesh))
        return kept

    @property
    def method(self) -> Method:
        """A copy of the method with its weights."""
        method: Method = nnx.merge(self.graph, own_copy(self.state), copy=True)[0]
        return method

    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end, see `Trainer.fit`."""
        if resume and folder.checkpoint.exists():
            self.load(folder)
        with together(self.process), Sitting(self, folder, progress) as sitting:
            sitting.train()

    def items(self, start: int) -> Generator[Item]:
        """What `step` takes for each step, see `SteppedTrainer.items`, made ahead by workers."""
        if self.kept is not None:
            for step in range(start, self.steps):
                yield {"rows": self.batches.rows(step).astype(np.int32)}
            return
        with closing(stream(self.batches, start, self.batches.workers)) as batches:
            yield from batches

    def step(self, step: int, item: Item) -> Contrast:
        """Start a step, see `SteppedTrainer.step`."""
        plan = self.plan(step, self.steps, self.settings.batch_size)
        plan = {name: self.process.part(of) if np.ndim(of) else of for name, of in plan.items()}
        samples, plan = place(self.mesh, item, plan)
        rows = samples.pop("rows", None)
        self.state, contrast = train_step(
            self.graph, self.mesh, self.state, samples if self.kept is None else self.kept, rows,
            plan, self.key,
        )  # fmt: skip
        return contrast

    def checkpoint(self) -> tuple[Any, dict[str, Any]]:
        """What a checkpoint holds, see `SteppedTrainer.checkpoint`."""
        state = jax.device_get(nnx.to_pure_dict(self.state))
        return state, {
            "history": list(self.history), "seconds": self.seconds, "losses": list(self.losses),
        }  # fmt: skip

    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""
        like = nnx.to_pure_dict(self.state)
        state, (self.history, self.seconds, self.losses) = load_checkpoint(
            folder, like, everywhere(self.mesh)
        )
        nnx.replace_by_pure_dict(self.state, state)

    def arrays(self) -> Weights:
        """Copies of all arrays of the method, see `Trainer.arrays`."""
        return get_arrays(self.method)

    def set_arrays(self, arrays: Weights) -> None:
        """Give the method arrays by name, see `Trainer.set_arrays`."""
        both = nnx.merge(self.graph, self.state)
        set_arrays(both[0], arrays)
        self.state = put(nnx.state(both), everywhere(self.mesh))

    def encode(self, images: AnyImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images, see `Trainer.encode`."""
        return encode_all(self.graph, own_copy(self.state), images)

    def project(self, images: AnyImages) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, see `Trainer.project`."""
        state, sides = own_copy(self.state), []
        for number, chunk in enumerate(filled_chunks(images)):
            pair = project(self.graph, state, chunk, jax.random.fold_in(self.key, number))
            sides.append([np.asarray(side, np.float32) for side in pair])
        x, y = map(np.concatenate, zip(*sides, strict=True))
        return x[: len(images)], y[: len(images)]
