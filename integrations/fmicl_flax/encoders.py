"""Encoders by name: the networks of the Lightning trainers in Flax NNX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmicl_core.checks import invalid
from fmicl_flax.layers import ConvNorm
from fmicl_flax.resnet50 import ResNet50
from fmicl_flax.vit import ViT
from fmicl_recipes.choices import VITS, check_encoder


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dtype: Any, rngs: nnx.Rngs) -> None:
        self.first = ConvNorm(inputs, outputs, 3, stride, dtype, rngs)
        self.second = ConvNorm(outputs, outputs, 3, 1, dtype, rngs)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else ConvNorm(inputs, outputs, 1, stride, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, H, W, C) to (N, H / stride, W / stride, outputs)."""
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(nnx.Module):
    """ResNet-18 with the stem for small images: 3 x 3, stride 1, no pooling.

    Args:
        channels: number of channels of the images.
        width: channels of the first stage, 64 in the standard; features have 8 * width.
        stem_stride: stride of the first convolution; 2 takes a quarter of the work.
        dtype: dtype of the arithmetic; weights and statistics are float32 at least.
        rngs: random numbers for the weights.

    Source: He et al. (2016), table 1; stem as in Chen et al. (2020), appendix B.9.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        stem_stride: int = 1,
        *,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = ConvNorm(channels, width, 3, stem_stride, dtype, rngs)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            blocks.append(BasicBlock(inputs, outputs, 1 if stage == 0 else 2, dtype, rngs))
            blocks.append(BasicBlock(outputs, outputs, 1, dtype, rngs))
            inputs = outputs
        self.blocks = nnx.List(blocks)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (N, H, W, C) to features (N, 8 * width)."""
        x = nnx.relu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return x.mean(axis=(1, 2))


class SmallConv(nnx.Module):
    """Four convolutions for images of about 8 x 8 pixels; features have 8 * width.

    Args:
        channels, width, stem_stride, dtype, rngs: arguments of `ResNet18`.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        stem_stride: int = 1,
        *,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        shapes = [(channels, width, stem_stride), (width, width, 1), (width, 2 * width, 2),
                  (2 * width, 2 * width, 1)]  # fmt: skip
        self.layers = nnx.List([ConvNorm(a, b, 3, stride, dtype, rngs) for a, b, stride in shapes])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features (N, 8 * width), the means of four quarters, of images (N, H, W, C)."""
        x = images
        for layer in self.layers:
            x = nnx.relu(layer(x))
        halves = [_halves(half, axis=2) for half in _halves(x, axis=1)]
        means = [quarter.mean(axis=(1, 2)) for pair in halves for quarter in pair]
        # Channel by channel, as PyTorch flattens, so that weights can be carried over.
        return jnp.stack(means, axis=2).reshape(len(x), -1)


def _halves(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Both halves along an axis; of an odd number the middle belongs to both."""
    size = x.shape[axis]
    half = -(-size // 2)
    return (
        jax.lax.slice_in_dim(x, 0, half, axis=axis),
        jax.lax.slice_in_dim(x, size - half, size, axis=axis),
    )


def build_encoder(
    name: str,
    channels: int,
    width: int,
    *,
    stem_stride: int = 1,
    patch_size: int = 4,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """The encoder of that name, from images (N, H, W, C) to features (N, F).

    Args:
        name: "resnet18", "resnet50", "smallconv", "vit-s6" or "vit-s12".
        channels: number of channels of the images.
        width: channels of the first stage or, of a ViT, per head.
        stem_stride: stride of the first convolution, which has its own in a "resnet50".
        patch_size: pixels a side of a ViT's patches.
        dtype: dtype of the arithmetic; weights are float32 at least.
        rngs: random numbers for the weights.

    Raises:
        ValueError: the name is unknown.
    """
    check_encoder(name, "jax")
    if name in VITS:
        return ViT(channels, width, VITS[name], patch_size, dtype=dtype, rngs=rngs)
    if name == "resnet50":
        return ResNet50(channels, width, dtype=dtype, rngs=rngs)
    kind = ResNet18 if name == "resnet18" else SmallConv
    return kind(channels, width, stem_stride, dtype=dtype, rngs=rngs)


def feature_width(encoder: nnx.Module, shape: tuple[int, int, int]) -> int:
    """Width F of an encoder's features of images (H, W, C), found without computing any.

    Raises:
        ValueError: the encoder does not return (N, F).
    """
    graphdef, state = nnx.split(encoder)

    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(images)

    out = jax.eval_shape(run, state, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    if out.ndim != 2:
        raise invalid("encoder", "a module that returns (N, F)", out.shape, what="output shape")
    return int(out.shape[1])
