"""ResNet-50, the standard encoder for large photos."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmicl_flax.layers import ConvNorm

#: Number of blocks of each stage.
BLOCKS = (3, 4, 6, 3)


class Bottleneck(nnx.Module):
    """Convolutions of 1, 3 and 1 pixels a side with a shortcut; the second one has the stride."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        self.narrow = ConvNorm(inputs, inner, 1, 1, dtype, rngs)
        self.middle = ConvNorm(inner, inner, 3, stride, dtype, rngs)
        self.widen = ConvNorm(inner, outputs, 1, 1, dtype, rngs)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else ConvNorm(inputs, outputs, 1, stride, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, H, W, inputs) to (N, H / stride, W / stride, outputs)."""
        y = self.widen(nnx.relu(self.middle(nnx.relu(self.narrow(x)))))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet50(nnx.Module):
    """ResNet-50, which sees an image of 224 pixels as a map of 7: for photos, not for small images.

    Args:
        channels: number of channels of the images.
        width: channels of the first stage, 64 in the standard; features have 32 * width.
        dtype: dtype of the arithmetic; weights and statistics are float32 at least.
        rngs: random numbers for the weights.

    Source: He et al. (2016), table 1; the stride is in the 3 x 3 convolution, as in torchvision.
    """

    def __init__(
        self, channels: int, width: int = 64, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.stem = ConvNorm(channels, width, 7, 2, dtype, rngs)
        blocks, inputs = [], width
        for stage, count in enumerate(BLOCKS):
            inner = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, inner, 4 * inner, stride, dtype, rngs))
                inputs = 4 * inner
        self.blocks = nnx.List(blocks)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) to features (N, 32 * width)."""
        x = nnx.relu(self.stem(images))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return x.mean(axis=(1, 2))
