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


def weights_dtype(dtype: Any) -> Any:
    """The dtype of the weights of a network that computes in `dtype`: float32 at least."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def linear(
    inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True, dtype: Any = jnp.float32
) -> nnx.Linear:
    """A linear layer with weights in `dtype`."""
    return nnx.Linear(
        inputs, outputs, use_bias=bias, param_dtype=dtype, kernel_init=draw_kernel, rngs=rngs
    )


def conv(inputs: int, outputs: int, size: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
    """A square convolution without bias, padded by half its size on either side."""
    return nnx.Conv(
        inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=False,
        dtype=dtype, param_dtype=weights_dtype(dtype), kernel_init=draw_kernel,
        conv_general_dilated=convolve, rngs=rngs,
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


class BatchNorm(nnx.BatchNorm):
    """Batch norm that divides by n in a batch and by n - 1 for its running variance: PyTorch's.

    Its running statistics are in the dtype of the weights.

    Args:
        args, options: arguments of `flax.nnx.BatchNorm`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        dtype = options.get("param_dtype", jnp.float32)
        for statistic in (self.mean, self.var):
            statistic.set_value(statistic.get_value().astype(dtype))

    def __call__(self, x: jax.Array, *args: Any, **options: Any) -> jax.Array:
        """Normalised x, see `flax.nnx.BatchNorm`."""
        kept = self.momentum * self.var[...]
        out = super().__call__(x, *args, **options)
        if not self.use_running_average:
            moved = self.var[...]
            count = x.size // x.shape[self.axis]
            self.var[...] = kept + (moved - kept) * (count / max(1, count - 1))
        return out


def batch_norm(
    features: int, rngs: nnx.Rngs, *, dtype: Any = jnp.float32, affine: bool = True
) -> BatchNorm:
    """Batch norm whose running statistics take a tenth of every batch."""
    return BatchNorm(
        features, momentum=0.9, epsilon=1e-5, dtype=dtype, param_dtype=weights_dtype(dtype),
        use_bias=affine, use_scale=affine, rngs=rngs,
    )  # fmt: skip


def attention(query: jax.Array, key: jax.Array, value: jax.Array, **_: Any) -> jax.Array:
    """Attention of (N, T, heads, d), without masks; JAX's own takes float32 for a part of it.

    softmax(query . key / sqrt(d)) value
    """
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(query.shape[-1])
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), value)


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
