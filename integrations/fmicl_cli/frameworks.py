"""The package that trains in each framework, and what can be checked before it is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from fmicl_core.checks import invalid
from fmicl_recipes.choices import ENCODER_LIBRARIES
from fmicl_recipes.data.sources import check_source
from fmicl_recipes.loading import PACKAGES
from fmicl_recipes.settings import TrainSettings

if TYPE_CHECKING:
    from fmicl_recipes.trainer import Trainer

#: What each package needs beside fmicl.
NEEDED = {
    "fmicl_lightning": ("torch", "lightning", "tensorboard"),
    "fmicl_flax": ("jax", "flax", "optax", "orbax", "tensorboard"),
    "fmicl_keras": ("keras",),
}
#: Where Linux shows its GPUs: NVIDIA's, AMD's, and those of Windows below it.
GPU_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
#: How the lines begin that TensorFlow writes when it is imported.
STARTUP = (b"WARNING: All log messages before absl", b"I0000 ", b"To enable the following instr")


class NotInstalled(ModuleNotFoundError):
    """Packages are missing; the message says which, and how to install them."""


def trainer_of(settings: TrainSettings) -> type[Trainer]:
    """The trainer of the settings' framework, imported only when a command needs it."""
    return load_package(settings.framework, settings.keras_backend).MethodTrainer


def load_package(framework: str, keras_backend: str) -> Any:
    """The package of a framework.

    Args:
        framework: name of the framework, as settings have it.
        keras_backend: backend of Keras, if the framework is "tensorflow".

    Raises:
        NotInstalled: the framework, or something else that the package needs, is not there.
    """
    check_installed(framework, keras_backend)
    if framework == "tensorflow":
        os.environ["KERAS_BACKEND"] = keras_backend  # read when Keras is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it has a lot to say that helps nobody
    with _without_startup_lines():
        return import_module(PACKAGES[framework])


def missing(framework: str, keras_backend: str) -> list[str]:
    """What the package of a framework needs and is not installed."""
    needed = NEEDED[PACKAGES[framework]]
    if framework == "tensorflow":
        needed = (*needed, keras_backend)
    return [name for name in needed if not is_installed(name)]


def check_installed(framework: str, keras_backend: str) -> None:
    """Check that the package of a framework can be imported, which is not done.

    Raises:
        NotInstalled: something that it needs is not there.
    """
    absent = missing(framework, keras_backend)
    if absent:
        extra = PACKAGES[framework].removeprefix("fmicl_")  # as extras are named
        backend = [name for name in absent if name == keras_backend != "keras"]
        extras = ",".join([extra, *backend]) if extra == "keras" else extra
        raise NotInstalled(
            f"{', '.join(absent)}, needed by --framework {framework}, is not installed."
            f" Install it with: pip install 'fmicl[{extras}]'"
        )


@contextmanager
def _without_startup_lines() -> Iterator[None]:
    """Drop what TensorFlow says when it is imported, whatever level of logs is asked for.

    Its compiled part writes these lines to the file of standard error, past Python. Other lines
    that are written while the block runs follow when it ends.
    """
    kept = os.dup(2)
    with TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file:
                if not line.startswith(STARTUP):
                    os.write(2, line)


def check_early(settings: TrainSettings) -> None:
    """Check what needs neither a framework nor a decoded image: data, device, encoder's library.

    Raises:
        ValueError: one of them is not there.
    """
    check_source(settings.data, settings.image_column, settings.label_column)
    if settings.device == "gpu" and sys.platform == "linux" and not any_gpu():
        raise invalid("device", "cpu or auto, as this machine shows no GPU", settings.device)
    library, _, model = settings.encoder.partition(":")
    if model and library in ENCODER_LIBRARIES and not is_installed(library):
        raise invalid("encoder", f"an encoder whose library is installed; {library} is not",
                      settings.encoder)  # fmt: skip


def is_installed(name: str) -> bool:
    """Whether a package can be imported, which is not done."""
    return name in sys.modules or find_spec(name) is not None


def any_gpu() -> bool:
    """Whether Linux shows a GPU; what the framework makes of it is the framework's business."""
    return any(Path(name).exists() for name in GPU_FILES)
