"""Targets as ids: which samples belong together, as losses with `ids_from_targets` read it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src.backend import in_symbolic_scope  # there is no public name

from fmicl_core.checks import WHOLE_NUMBERS, invalid
from fmicl_keras.backend import Tensor

EXPECTED = "one whole number per sample, (batch,) or (batch, 1)"


def ids_of(y_true: Any, samples: int | None) -> Tensor:
    """The ids that targets hold, such as labels; (batch,) whole numbers.

    Keras hands integers on as they are, so that a float dtype is a mistake whatever it holds. Only
    where it builds a model for several replicas, from shapes alone, targets are float.

    Args:
        y_true: targets of a batch.
        samples: number of samples in the batch; None while it is unknown.

    Raises:
        ValueError: targets are missing, no whole numbers, or not one per sample.
    """
    if y_true is None or (keras.tree.is_nested(y_true) and not isinstance(y_true, list)):
        why = "With `ids_from_targets` they say which samples belong together: `fit(x, labels)`."
        raise invalid("y_true", EXPECTED, type(y_true).__name__, what="type(y_true)", why=why)
    ids = y_true if keras.ops.is_tensor(y_true) else np.asarray(y_true)
    shape = tuple(ids.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,), (None,)):
        why = "One-hot rows become whole numbers by keras.ops.argmax(y_true, axis=-1)."
        raise invalid("y_true", EXPECTED, shape, what="y_true.shape", why=why)
    if in_symbolic_scope():
        ids = keras.ops.cast(ids, "int32")
    if not (dtype := _name(ids.dtype)).startswith(("int", "uint")):
        raise invalid("y_true", WHOLE_NUMBERS, dtype, what="y_true.dtype")
    if None not in (samples, shape[0]) and shape[0] != samples:
        raise invalid("y_true", f"{EXPECTED}, batch = {samples}", shape, what="y_true.shape")
    if isinstance(ids, np.ndarray) and keras.config.backend() == "jax":
        ids = np.unique(ids, return_inverse=True)[1]  # JAX would cut them to 32 bits
    return keras.ops.reshape(keras.ops.convert_to_tensor(ids), (-1,))


def _name(dtype: Any) -> str:
    return getattr(dtype, "name", None) or keras.backend.standardize_dtype(dtype)
