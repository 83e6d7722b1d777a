"""Targets as ids: which samples belong together, as losses with `ids_from_targets` read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend import in_symbolic_scope  # there is no public name

from fmicl_core.checks import WHOLE_NUMBERS, invalid
from fmicl_keras.backend import Tensor

EXPECTED = "one whole number per sample, (batch,) or (batch, 1)"


def ids_of(values: Any, samples: int | None, argument: str = "y_true") -> Tensor:
    """The ids that targets hold, such as labels; (batch,) whole numbers.

    Keras hands integers on as they are, so that a float dtype is a mistake whatever it holds. Only
    where it builds a model for several replicas, from shapes alone, targets are float.

    Args:
        values: targets of a batch.
        samples: number of samples in the batch; None while it is unknown.
        argument: name of the argument that holds them.

    Raises:
        ValueError: targets are missing, no whole numbers, or not one per sample.
    """
    if values is None or (keras.tree.is_nested(values) and not isinstance(values, list)):
        why = "With `ids_from_targets` they say which samples belong together: `fit(x, labels)`."
        raise invalid(argument, EXPECTED, type(values).__name__, what=f"type({argument})", why=why)
    ids = values if keras.ops.is_tensor(values) else np.asarray(values)
    if in_symbolic_scope():
        ids = keras.ops.cast(ids, "int32")
    check_targets(argument, ids.shape, _name(ids.dtype), samples)
    if isinstance(ids, np.ndarray) and keras.config.backend() == "jax":
        ids = np.unique(ids, return_inverse=True)[1]  # JAX would cut them to 32 bits
    return keras.ops.reshape(keras.ops.convert_to_tensor(ids), (-1,))


def check_targets(
    argument: str, shape: Sequence[int | None], dtype: str, samples: int | None
) -> None:
    """Check that targets are ids by their shape and dtype.

    Args:
        argument: name of the argument that holds them.
        shape: shape of the targets.
        dtype: name of their dtype.
        samples: number of samples in the batch; None while it is unknown.

    Raises:
        ValueError: they are no whole numbers, or not one per sample.
    """
    shape, what = tuple(shape), f"{argument}.shape"
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,), (None,)):
        why = f"One-hot rows become whole numbers by keras.ops.argmax({argument}, axis=-1)."
        raise invalid(argument, EXPECTED, shape, what=what, why=why)
    if not dtype.startswith(("int", "uint")):
        raise invalid(argument, WHOLE_NUMBERS, dtype, what=f"{argument}.dtype")
    if None not in (samples, shape[0]) and shape[0] != samples:
        raise invalid(argument, f"{EXPECTED}, batch = {samples}", shape, what=what)


def _name(dtype: Any) -> str:
    return getattr(dtype, "name", None) or keras.backend.standardize_dtype(dtype)
