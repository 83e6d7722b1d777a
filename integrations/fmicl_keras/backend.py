"""Our library for the Keras backend in use, imported when needed, and what Keras lacks of it."""

from __future__ import annotations

import operator
from importlib import import_module
from types import ModuleType
from typing import Any

import keras

from fmicl_core import Ops
from fmicl_core.checks import check_choice, invalid

#: Keras backends with a library of ours, `fmicl_NAME`.
BACKENDS = ("tensorflow", "jax", "torch")

Tensor = Any
Rows = dict[str, Tensor]


def library(part: str = "") -> ModuleType:
    """`fmicl_tensorflow`, `fmicl_jax` or `fmicl_torch`, or the module of that name in it.

    Raises:
        ValueError: Keras runs on another backend.
    """
    name = check_choice("KERAS_BACKEND", keras.config.backend(), BACKENDS)
    return import_module(f"fmicl_{name}" + (f".{part}" if part else ""))


def ops() -> Ops:
    """The elementwise functions that the specification needs, in the backend."""
    return getattr(library("ops"), keras.config.backend().upper())


def product(left: Tensor, right: Tensor) -> Tensor:
    """All scores left_i . right_j; (N, D) and (K, D) to (N, K)."""
    # JAX has one in full precision; that of Keras would round float64 to float32.
    matmul = getattr(library("ops"), "product", operator.matmul)
    return matmul(left, keras.ops.transpose(right))


def float32_at_least(dtype: Any) -> str:
    """The dtype a loss computes in: the one asked for, else `keras.config.floatx()`, no half.

    Raises:
        ValueError: it is no float dtype.
    """
    name = keras.dtype_policies.get(dtype or keras.config.floatx()).compute_dtype
    check_choice("dtype", name, ("float16", "bfloat16", "float32", "float64"))
    return name if name == "float64" else "float32"


def count(x: Tensor, dtype: str) -> Tensor:
    """The number of rows of x, in that dtype."""
    return keras.ops.cast(keras.ops.shape(x)[0], dtype)


def is_traced(value: Tensor) -> bool:
    """Whether a value is not known yet, since a step is being compiled."""
    name = keras.config.backend()
    if name == "jax":
        return isinstance(value, library("ops").jax.core.Tracer)
    if name == "tensorflow":
        return not library("ops").tf.executing_eagerly()
    return library("ops").torch.compiler.is_compiling() or value.device.type == "meta"


def mean(values: Tensor, axis: int) -> Tensor:
    """The mean along an axis."""
    # `keras.ops.mean` would round float64 to float32.
    total = keras.ops.sum(values, axis=axis)
    return total / keras.ops.cast(keras.ops.shape(values)[axis], values.dtype)


def per_sample(sample_weight: Any, values: Tensor) -> Tensor:
    """Sample weights as an array like values, (batch,).

    Args:
        sample_weight: one weight per sample, one for all samples, or None for weights of 1.
        values: losses of the samples, (batch,).

    Raises:
        ValueError: sample_weight has another shape.
    """
    if sample_weight is None:
        return keras.ops.ones_like(values)
    weights = keras.ops.convert_to_tensor(sample_weight, dtype=values.dtype)
    shape = tuple(weights.shape)
    if len(shape) > 1 and shape[1:] != (1,):
        raise invalid(
            "sample_weight", "one weight per sample, (batch,)", shape, what="sample_weight.shape"
        )
    return keras.ops.ones_like(values) * (keras.ops.reshape(weights, (-1,)) if shape else weights)
