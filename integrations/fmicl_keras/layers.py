"""Layers as PyTorch draws them, so that networks start alike in every framework."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from fmicl_keras.replicas import replica_count


def network_input(shape: tuple[int, ...]) -> Any:
    """The input of a network, (batch, *shape), in the dtype that layers keep weights in.

    Keras would take float32 for it, and round what comes in.
    """
    return keras.Input(shape, dtype=keras.config.dtype_policy().variable_dtype)


def dense(width: int, use_bias: bool = True, name: str | None = None) -> layers.Dense:
    """A linear layer, drawn as in PyTorch."""
    return layers.Dense(width, use_bias=use_bias, kernel_initializer=fan_in_uniform(), name=name)


def conv(x: Any, outputs: int, size: int = 3, stride: int = 1, *, name: str) -> Any:
    """A convolution without bias, padded by size // 2 on every side at any stride.

    Keras pads one side only where an even image meets a stride of 2 and padding is "same".
    """
    if size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    return layers.Conv2D(
        outputs, size, stride, use_bias=False, kernel_initializer=fan_in_uniform(), name=name
    )(x)  # fmt: skip


def fan_in_uniform() -> keras.Initializer:
    """Uniform within +-1 / sqrt(fan in), PyTorch's default, drawn anew for every layer."""
    return keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")


@keras.saving.register_keras_serializable("fmicl_keras")
class BatchNorm(layers.BatchNormalization):
    """Batch norm that divides by n in a batch and by n - 1 for its running variance: PyTorch's."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalised inputs, see `keras.layers.BatchNormalization`."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training, mask=mask)
        count = ops.prod(ops.shape(inputs)[:-1])
        if self.synchronized:
            count = count * replica_count()
        count = ops.cast(count, kept.dtype)
        moved = ops.convert_to_tensor(self.moving_variance) - kept
        self.moving_variance.assign(kept + moved * (count / ops.maximum(count - 1.0, 1.0)))
        return outputs


def batch_norm(x: Any, **options: Any) -> Any:
    """Batch norm with PyTorch's constants."""
    return BatchNorm(momentum=0.9, epsilon=1e-5, **options)(x)


@keras.saving.register_keras_serializable("fmicl_keras")
def gelu(x: Any) -> Any:
    """X Phi(x), with the normal distribution Phi; Keras' own is float32 in part on TensorFlow."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return keras.activations.gelu(x, approximate=False)
    return 0.5 * x * (1.0 + ops.erf(x / math.sqrt(2.0)))


def attention(query: Any, key: Any, value: Any) -> Any:
    """softmax(query . key / sqrt(d)) value of (N, T, heads, d), without masks.

    Keras' own is float32 in part on TensorFlow and JAX.
    """
    if keras.backend.standardize_dtype(query.dtype) != "float64":
        return ops.nn.dot_product_attention(query, key, value)
    scores = ops.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(query.shape[-1])
    return ops.einsum("nhqk,nkhd->nqhd", ops.softmax(scores), value)


def has_batch_norm(model: keras.Model) -> bool:
    """Whether a batch norm is anywhere in a model."""
    return any(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())
