"""Layers as PyTorch draws them, so that networks start alike in every framework."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import variance_scaling

#: Uniform on +- 1 / sqrt(inputs of a unit); biases start at 0.
UNIFORM = variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def draw_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any, *_: Any) -> jax.Array:
    """Weights (..., inputs, outputs) from `UNIFORM`, without compiling for each shape.

    A longer draw of the same key begins with the same numbers. So a few lengths serve for all
    shapes, where a ResNet-18 compiled for ten seconds before its first step.
    """
    if isinstance(key, jax.core.Tracer):
        return UNIFORM(key, shape, dtype)
    count = math.prod(shape)
    length = next(size for k in itertools.count() if (size := 2**16 * 8**k) >= count)
    variance = np.float32(1.0 / 3.0 / (count // shape[-1]))
    drawn = np.asarray(_uniform(key, length))[:count] * np.sqrt(np.float32(3.0) * variance)
    return jnp.asarray(drawn.reshape(shape), dtype)


@partial(jax.jit, static_argnames="length")
def _uniform(key: jax.Array, length: int) -> jax.Array:
    return jax.random.uniform(key, (length,), jnp.float32, -1.0)


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True) -> nnx.Linear:
    """A linear layer in float32."""
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=draw_kernel, rngs=rngs)


def conv(inputs: int, outputs: int, size: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution without bias, padded by half its size on either side."""
    return nnx.Conv(
        inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=False,
        dtype=dtype, kernel_init=draw_kernel, conv_general_dilated=convolve, rngs=rngs,
    )  # fmt: skip


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, or one matrix product where maps are smaller than the kernel.

    There XLA for CPUs leaves its fast convolutions for a plain loop: 3 x 3 on 2 x 2 pixels, 128
    channels and images took 20 ms on one core, the product 0.7 ms.

    Args:
        x: images (N, H, W, C).
        kernel: weights (h, w, C, outputs).
        strides: steps (vertical, horizontal).
        padding: rows and columns of zeros ((top, bottom), (left, right)).
        options: further arguments of `nnx.Conv`; the product takes no dilation and no groups.
    """
    sides = zip(x.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    sizes = [(have + sum(pad) - size) // step + 1 for have, size, step, pad in sides]
    if min(sizes) >= max(kernel.shape[:2]) or kernel.shape[:2] == (1, 1):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    places = [
        [slice(first, first + (count - 1) * step + 1, step) for first in range(size)]
        for count, step, size in zip(sizes, strides, kernel.shape[:2], strict=True)
    ]
    patches = [padded[:, rows, columns] for rows in places[0] for columns in places[1]]
    return jnp.concatenate(patches, axis=3) @ kernel.reshape(-1, kernel.shape[3])


def batch_norm(
    features: int, rngs: nnx.Rngs, *, dtype: Any = jnp.float32, affine: bool = True
) -> nnx.BatchNorm:
    """Batch norm whose running statistics take a tenth of every batch."""
    return nnx.BatchNorm(
        features, momentum=0.9, epsilon=1e-5, dtype=dtype, use_bias=affine, use_scale=affine,
        rngs=rngs,
    )  # fmt: skip


class ConvNorm(nnx.Module):
    """A convolution and its batch norm."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        self.conv = conv(inputs, outputs, size, stride, dtype, rngs)
        self.norm = batch_norm(outputs, rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, H, W, C) to (N, H / stride, W / stride, outputs)."""
        return self.norm(self.conv(x))
