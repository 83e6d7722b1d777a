"""Projection heads of the methods, from features (N, F) to projections (N, d)."""

from __future__ import annotations

import keras
from keras import layers

from fmicl_keras.encoders import batch_norm, fan_in_uniform


def dense(width: int, use_bias: bool = True) -> layers.Dense:
    """A linear layer as the methods start it."""
    return layers.Dense(width, use_bias=use_bias, kernel_initializer=fan_in_uniform())


def mlp(inputs: int, hidden: int, outputs: int, *, norm: bool) -> keras.Model:
    """MoCo: two layers (Chen et al. 2020b), and a batch norm without scale and shift.

    The norm is ours. f-MICL takes a plain mean over the queue, whose keys stand still, and would
    push all queries away from it together, on to one point; InfoNCE does not see a common shift.
    With the norm there is none.
    """
    features = keras.Input((inputs,))
    x = layers.ReLU()(dense(hidden)(features))
    x = dense(outputs)(x)
    if norm:
        x = batch_norm(x, center=False, scale=False)
    return keras.Model(features, x, name="head")


def normed_mlp(inputs: int, *widths: int) -> keras.Model:
    """MoCo v3: layers of these widths, each with a batch norm and all but the last with a ReLU.

    The last norm has no scale and shift. Source: Chen et al. (2021), section 4.2, and its code.
    """
    x = features = keras.Input((inputs,))
    for width in widths[:-1]:
        x = layers.ReLU()(batch_norm(dense(width, use_bias=False)(x)))
    x = batch_norm(dense(widths[-1], use_bias=False)(x), center=False, scale=False)
    return keras.Model(features, x)
