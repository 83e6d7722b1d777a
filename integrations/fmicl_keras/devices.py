"""Where Keras trains: one device, or several through the backend's own engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

import keras

from fmicl_core.checks import invalid
from fmicl_keras.machines import over_machines
from fmicl_recipes.settings import TrainSettings


class Devices:
    """The devices that settings name.

    Several are a `tf.distribute.MirroredStrategy` with TensorFlow, whose replicas draw the same
    random numbers for their different images, and a `keras.distribution.DataParallel` with JAX;
    those of several machines are a `MultiWorkerMirroredStrategy`. Not yet run on a GPU.

    Args:
        settings: settings of the run.

    Raises:
        ValueError: there are fewer devices, or the PyTorch backend is asked for several.
    """

    def __init__(self, settings: TrainSettings) -> None:
        #: Number of devices of this machine.
        self.count = settings.devices
        #: Strategy over several machines; None on one.
        self.machines = None
        if settings.machines > 1:
            self.engine = self.machines = over_machines(settings.device, settings.devices)
            return
        backend = keras.config.backend()
        if self.count > 1 and backend == "torch":
            raise invalid(
                "devices", "1 with the torch backend of Keras", self.count,
                why="Keras trains on several with the tensorflow or jax backend, as does"
                " framework = 'torch'.",
            )  # fmt: skip
        kind = settings.device
        if kind == "auto":
            kind = "gpu" if available("gpu") else "cpu"
        names = available(kind)
        if not names:
            raise invalid("device", f"a kind of device that {backend} has", settings.device)
        if self.count > len(names):
            raise invalid("devices", f"at most {len(names)}, the {kind} devices", self.count)
        self.names, self.engine = names[: self.count], None
        if self.count > 1 and backend == "tensorflow":
            self.engine = mirrored(*self.names)
        elif self.count > 1:
            self.engine = keras.distribution.DataParallel(devices=self.names)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Build and train on these devices within the block."""
        with ExitStack() as stack:
            stack.enter_context(self.engine.scope() if self.engine else keras.device(self.names[0]))
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute on the devices of this machine, without the others, within the block."""
        with nullcontext() if self.machines else self.scope():
            yield


@cache
def mirrored(*names: str) -> Any:
    """The one strategy of these devices; collectives of two strategies would get mixed up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def available(kind: str) -> list[str]:
    """The names, such as "gpu:0", of the devices of a kind, "cpu" or "gpu"."""
    if keras.config.backend() == "torch":
        import torch

        return ["cpu"] if kind == "cpu" else [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    try:
        return list(keras.distribution.list_devices(kind))
    except RuntimeError:  # JAX's answer where there is none
        return []
