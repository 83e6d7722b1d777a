"""Vision transformer of MoCo v3: fixed sine-cosine positions, class token, ViT-S in 6 heads."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from fmicl_core.checks import invalid

HEADS = 6
#: Name of the layer that projects patches, which MoCo v3 may freeze.
PATCHES = "patches"


def vit(shape: tuple[int, int, int], width: int, depth: int, patch_size: int) -> keras.Model:
    """Images (N, H, W, C) to the class token (N, dim) after `depth` blocks.

    Args:
        shape: (H, W, C).
        width: channels per head, even; dim = 6 * width, so that 64 is ViT-S.
        depth: number of blocks.
        patch_size: pixels a side of a patch, a divisor of H and W.

    Raises:
        ValueError: the width is odd, or the patches do not tile the images.

    Source: Dosovitskiy et al. (2021), in the form of Chen et al. (2021), section 4.1 and its code.
    """
    height, width_of_image, _ = shape
    if width % 2:
        raise invalid("width", "an even number for a ViT", width)
    if height % patch_size or width_of_image % patch_size:
        sides = f"{height} x {width_of_image}"
        raise invalid("patch_size", f"a divisor of the images' sides, {sides}", patch_size)
    images = keras.Input(shape)
    dim = HEADS * width
    x = layers.Conv2D(dim, patch_size, patch_size, name=PATCHES)(images)
    x = Tokens()(x)
    for _ in range(depth):
        x = block(x, dim)
    # The norm is taken row by row, so the other tokens need none.
    return keras.Model(images, _norm()(x[:, 0]), name=f"vit-s{depth}")


def block(x: Any, dim: int) -> Any:
    """Attention and MLP, each behind a norm and beside a shortcut; tokens (N, T, dim)."""
    count = x.shape[1]
    # Query, key and value are drawn as three layers, though they are one.
    third = keras.initializers.RandomUniform(-math.sqrt(3.0 / dim), math.sqrt(3.0 / dim))
    heads = layers.Dense(3 * dim, kernel_initializer=third)(_norm()(x))
    heads = layers.Reshape((count, 3, HEADS, dim // HEADS))(heads)
    mixed = ops.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
    x = layers.Add()([x, layers.Dense(dim)(layers.Reshape((count, dim))(mixed))])
    hidden = layers.Dense(4 * dim, activation="gelu")(_norm()(x))
    return layers.Add()([x, layers.Dense(dim)(hidden)])


class Tokens(layers.Layer):
    """Patches (N, h, w, dim) to tokens (N, 1 + h w, dim): the class token, then the patches."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the class token; it starts at almost zero."""
        self.token = self.add_weight(
            shape=(shape[-1],), initializer=keras.initializers.RandomNormal(stddev=1e-6)
        )

    def call(self, grid: Any) -> Any:
        """Tokens with their positions added."""
        height, width, dim = grid.shape[1:]
        place = ops.convert_to_tensor(sine_cosine(height, width, dim), self.compute_dtype)
        patches = ops.reshape(grid, (-1, height * width, dim)) + place
        token = ops.broadcast_to(self.token, (ops.shape(grid)[0], 1, dim))
        return ops.concatenate([ops.cast(token, patches.dtype), patches], axis=1)


def sine_cosine(height: int, width: int, dim: int) -> NDArray[np.float32]:
    """Positions (height * width, dim), row by row: sine and cosine of column, then of row.

    The frequencies are 10000^(-i / (dim / 4)), i < dim / 4. Source: Chen et al. (2021), its code.
    """
    rate = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    row, column = (np.arange(n)[:, None] * rate for n in (height, width))
    column = np.tile(column, (height, 1))
    row = np.repeat(row, width, axis=0)
    places = [np.sin(column), np.cos(column), np.sin(row), np.cos(row)]
    return np.concatenate(places, axis=1).astype(np.float32)


def _norm() -> layers.Layer:
    return layers.LayerNormalization(epsilon=1e-6)
