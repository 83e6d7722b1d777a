"""Vision transformer of MoCo v3: fixed sine-cosine positions, class token, ViT-S in 6 heads."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

from fmicl_keras.layers import attention, gelu, network_input
from fmicl_recipes.vit import EPSILON, HEADS, TOKEN_DEVIATION, check_patches, sine_cosine, token_dim

#: Name of the layer that projects patches, which MoCo v3 may freeze.
PATCHES = "patch_embed_proj"


def vit(shape: tuple[int, int, int], width: int, depth: int, patch_size: int) -> keras.Model:
    """A transformer from images (N, H, W, C) to the class token (N, dim) after `depth` blocks.

    Args:
        shape: height, width and channels of the images.
        width: channels per head, even; tokens have dim = 6 * width, and 64 is ViT-S.
        depth: number of blocks.
        patch_size: pixels a side of a patch, a divisor of H and W.

    Raises:
        ValueError: the width is odd, or the patches do not tile the images.

    Source: Dosovitskiy et al. (2021), in the form of Chen et al. (2021), section 4.1 and its code.
    """
    dim = token_dim(width)
    check_patches(patch_size, *shape[:2])
    images = network_input(shape)
    x = layers.Conv2D(dim, patch_size, patch_size, name=PATCHES)(images)
    x = Tokens(name="cls_token")(x)
    for i in range(depth):
        x = block(x, dim, f"blocks_{i}")
    # The norm is taken row by row, so the other tokens need none.
    return keras.Model(images, _norm("norm")(x[:, 0]), name=f"vit-s{depth}")


def block(x: Any, dim: int, name: str) -> Any:
    """Attention and a two-layer network, each after a layer norm and added to its input."""
    count = x.shape[1]
    # Query, key and value are drawn as three layers, though they are one.
    third = keras.initializers.RandomUniform(-math.sqrt(3.0 / dim), math.sqrt(3.0 / dim))
    heads = layers.Dense(3 * dim, kernel_initializer=third, name=f"{name}_attn_qkv")(
        _norm(f"{name}_norm1")(x)
    )
    heads = layers.Reshape((count, 3, HEADS, dim // HEADS))(heads)
    mixed = attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
    mixed = layers.Dense(dim, name=f"{name}_attn_proj")(layers.Reshape((count, dim))(mixed))
    x = layers.Add()([x, mixed])
    widen = layers.Dense(4 * dim, activation=gelu, name=f"{name}_mlp_fc1")
    hidden = widen(_norm(f"{name}_norm2")(x))
    return layers.Add()([x, layers.Dense(dim, name=f"{name}_mlp_fc2")(hidden)])


class Tokens(layers.Layer):
    """A layer from patches (N, h, w, dim) to tokens (N, 1 + h w, dim), the class token first."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the class token; it starts at almost zero."""
        self.token = self.add_weight(
            shape=(shape[-1],), name="token",
            initializer=keras.initializers.RandomNormal(stddev=TOKEN_DEVIATION),
        )  # fmt: skip

    def call(self, grid: Any) -> Any:
        """Tokens with their positions added."""
        height, width, dim = grid.shape[1:]
        place = ops.convert_to_tensor(sine_cosine((height, width), dim), self.compute_dtype)
        patches = ops.reshape(grid, (-1, height * width, dim)) + place
        token = ops.broadcast_to(self.token, (ops.shape(grid)[0], 1, dim))
        return ops.concatenate([ops.cast(token, patches.dtype), patches], axis=1)


def _norm(name: str) -> layers.Layer:
    return layers.LayerNormalization(epsilon=EPSILON, name=name)
