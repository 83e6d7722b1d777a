"""What is compared: the trainers of Lightning, of Flax, and of Keras on each of its backends.

A trainer takes the steps of a training by its own code: method, loss, optimiser and schedule.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import Array, describe
from fmicl_check.frameworks import Absent
from fmicl_check.training import Training, digits, initial_weights, nudged
from fmicl_core.checks import InvalidArgument, check_choice
from fmicl_recipes.trainer import Trainer
from fmicl_recipes.weights import Weights


class Trained(NamedTuple):
    """What a trainer makes of a training.

    Args:
        losses: loss of every step, (steps,).
        weights: all arrays of the method at the end, by canonical name.
    """

    losses: Array
    weights: Weights


@dataclass(frozen=True)
class Column:
    """A trainer on one framework.

    Args:
        name: name of the column.
        framework: framework of the settings, by which `--framework` chooses.
        package: package of ours that trains.
        extra: extra of ours that installs what it needs.
        modules: modules that it needs.
        backend: Keras backend; empty for other trainers.
    """

    name: str
    framework: str
    package: str
    extra: str
    modules: tuple[str, ...]
    backend: str = ""


def _keras(backend: str) -> Column:
    return Column(
        f"keras-{backend}", "tensorflow", "fmicl_keras", f"keras,{backend}", ("keras", backend),
        backend,
    )  # fmt: skip


#: The first one that works is the reference.
COLUMNS = (
    Column("torch", "torch", "fmicl_lightning", "lightning", ("torch", "lightning")),
    Column("jax", "jax", "fmicl_flax", "flax", ("jax", "flax", "optax", "orbax")),
    *map(_keras, ("tensorflow", "jax", "torch")),
)


def find_columns(frameworks: Sequence[str] = ()) -> tuple[list[Column], list[Absent]]:
    """The columns whose modules are installed, and the others, by looking and not by importing.

    Args:
        frameworks: names of frameworks to choose by, or none for all.

    Raises:
        ValueError: a name is unknown.
    """
    names = [check_choice("framework", name, ADAPTERS) for name in frameworks] or list(ADAPTERS)
    found, absent = [], []
    for column in (c for c in COLUMNS if c.framework in names):
        missing = [module for module in column.modules if find_spec(module) is None]
        if missing:
            why = f"{missing[0]} is not installed; pip install 'fmicl[{column.extra}]'"
            absent.append(Absent(column.name, "missing", why))
        else:
            found.append(column)
    return found, absent


def opened(column: Column, training: Training, device: str) -> dict[str, str] | Absent:
    """Versions of what a column consists of, in a process that can train it from now on."""
    try:
        prepare(column)
        trainer: Any = import_module(column.package).MethodTrainer
        _let_float64(column, training)
        trainer.check(training.settings(column.framework, **_place(column, device)))
    except InvalidArgument as error:
        return Absent(column.name, "no device", str(error))
    except Exception as error:  # what a broken installation raises is anyone's guess
        return Absent(column.name, "broken", describe(error))
    found = {module: getattr(sys.modules[module], "__version__", "") for module in column.modules}
    return {name: version for name, version in found.items() if version}


def _place(column: Column, device: str) -> dict[str, str]:
    return {"device": device, **({"keras_backend": column.backend} if column.backend else {})}


def _let_float64(column: Column, training: Training) -> None:
    """Let JAX know float64 where a training asks for it, and only there, as users have it."""
    if "jax" in column.modules:
        import_module("jax").config.update("jax_enable_x64", training.dtype == "float64")


def prepare(column: Column) -> None:
    """Make this process one that can train a column; before a framework is imported.

    Raises:
        ImportError: something is not installed.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if column.backend:
        os.environ["KERAS_BACKEND"] = column.backend
    for module in column.modules:
        import_module(module)
    import_module(column.package)
    if "torch" in column.modules:
        import_module("torch").set_num_threads(1)  # columns train side by side


def train(column: Column, training: Training, device: str, *, nudge: bool = False) -> Trained:
    """Train in this process, which `prepare` made ready.

    Args:
        column: what trains.
        training: what is trained.
        device: device, "cpu" or "gpu".
        nudge: whether weights start one unit in the last place away.
    """
    _let_float64(column, training)
    settings = training.settings(column.framework, **_place(column, device))
    trainer: Any = import_module(column.package).MethodTrainer(settings, digits(training.steps))
    weights = initial_weights(settings)
    trainer.set_weights(nudged(weights, training.dtype) if nudge else weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few workers, of views that are close together
        losses = _STEPS[column.package](trainer)
    found = {k: v.astype(np.float64) for k, v in trainer.weights().items()}
    return Trained(np.asarray(losses, np.float64), found)


def _lightning(trainer: Any) -> list[float]:
    """Take all steps by `lightning.Trainer.fit`."""
    from fmicl_check.lightning_steps import fit

    return fit(trainer)


def _flax(trainer: Any) -> list[float]:
    """Take all steps by the compiled `train_step`."""
    items = enumerate(trainer.items(0))
    return [float(trainer.step(step, item)[0]) for step, item in items]


def _keras_fit(trainer: Any) -> list[float]:
    """Take all steps by `keras.Model.fit`."""
    from fmicl_check.keras_steps import fit

    return fit(trainer)


_STEPS: dict[str, Callable[[Trainer], list[float]]] = {
    "fmicl_lightning": _lightning, "fmicl_flax": _flax, "fmicl_keras": _keras_fit,
}  # fmt: skip
