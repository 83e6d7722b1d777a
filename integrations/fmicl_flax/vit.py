"""Vision transformer of MoCo v3: fixed sine-cosine positions, class token, ViT-S in 6 heads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal, xavier_uniform

from fmicl_flax.layers import attention, weights_dtype
from fmicl_recipes.vit import EPSILON, HEADS, TOKEN_DEVIATION, check_patches, sine_cosine, token_dim

DENSE = xavier_uniform()
PATCHES = xavier_uniform(in_axis=(0, 1, 2))  # a patch is one input of the projection
TOKEN = normal(TOKEN_DEVIATION)


class Block(nnx.Module):
    """Attention and a two-layer network, each after a layer norm and added to its input."""

    def __init__(self, dim: int, dtype: Any, rngs: nnx.Rngs) -> None:
        options: Any = {"dtype": dtype, "param_dtype": weights_dtype(dtype), "rngs": rngs}
        exact: Any = {"attention_fn": attention} if dtype == jnp.float64 else {}
        self.norm1 = nnx.LayerNorm(dim, epsilon=EPSILON, **options)
        self.attention = nnx.MultiHeadAttention(
            HEADS, dim, kernel_init=DENSE, decode=False, **exact, **options
        )
        self.norm2 = nnx.LayerNorm(dim, epsilon=EPSILON, **options)
        self.widen = nnx.Linear(dim, 4 * dim, kernel_init=DENSE, **options)
        self.narrow = nnx.Linear(4 * dim, dim, kernel_init=DENSE, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens (N, T, dim) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(nnx.gelu(self.widen(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    """A transformer from images (N, H, W, C) to the class token (N, dim) after `depth` blocks.

    Args:
        channels: number C of channels of the images.
        width: channels per head, even; tokens have dim = 6 * width, and 64 is ViT-S.
        depth: number of blocks.
        patch_size: pixels a side of a patch, a divisor of H and W.
        dtype: dtype of the arithmetic; weights are float32 at least.
        rngs: random numbers for the weights.

    Raises:
        ValueError: the width is odd, or the patches do not tile the images.

    Source: Dosovitskiy et al. (2021), in the form of Chen et al. (2021), section 4.1 and its code.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        depth: int,
        patch_size: int,
        *,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        dim, self.patch_size, kept = token_dim(width), patch_size, weights_dtype(dtype)
        self.patches = nnx.Conv(
            channels, dim, (patch_size, patch_size), strides=patch_size, padding="VALID",
            dtype=dtype, param_dtype=kept, kernel_init=PATCHES, rngs=rngs,
        )  # fmt: skip
        self.token = nnx.Param(TOKEN(rngs.params(), (dim,), kept))
        self.blocks = nnx.List([Block(dim, dtype, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, param_dtype=kept, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features (N, dim)."""
        check_patches(self.patch_size, *images.shape[1:3])
        grid = self.patches(images)
        count, rows, columns, dim = grid.shape
        place = jnp.asarray(sine_cosine((rows, columns), dim), grid.dtype)
        tokens = grid.reshape(count, -1, dim) + place
        token = jnp.broadcast_to(self.token[...], (count, 1, dim))
        tokens = jnp.concatenate([token.astype(grid.dtype), tokens], axis=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]
