"""Layers as PyTorch draws them, so that networks start alike in every framework."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


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


def batch_norm(x: Any, **options: Any) -> Any:
    """Batch norm with PyTorch's constants."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)(x)


def has_batch_norm(model: keras.Model) -> bool:
    """Whether a batch norm is anywhere in a model."""
    return any(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())
