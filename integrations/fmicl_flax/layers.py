"""Layers as PyTorch draws them, so that networks start alike in every framework."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import variance_scaling

#: Uniform on +- 1 / sqrt(inputs of a unit); biases start at 0.
KERNEL = variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True) -> nnx.Linear:
    """A linear layer in float32."""
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=KERNEL, rngs=rngs)


def conv(inputs: int, outputs: int, size: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution without bias, padded by half its size on either side."""
    return nnx.Conv(
        inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=False,
        dtype=dtype, kernel_init=KERNEL, rngs=rngs,
    )  # fmt: skip


def batch_norm(
    features: int, rngs: nnx.Rngs, *, dtype: Any = jnp.float32, affine: bool = True
) -> nnx.BatchNorm:
    """Batch norm whose running statistics take a tenth of every batch."""
    return nnx.BatchNorm(
        features, momentum=0.9, epsilon=1e-5, dtype=dtype, use_bias=affine, use_scale=affine,
        rngs=rngs,
    )  # fmt: skip
