"""Random views of images as Keras layers: in the graph, on the device, on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fmicl_core.checks import check_choice
from fmicl_keras.geometry import RandomAffine, RandomResizedCrop, drawn
from fmicl_keras.layers import network_input
from fmicl_recipes.augmentation import (
    BLUR_SIGMA,
    DEVIATION,
    DIGITS,
    JITTERED,
    MEAN,
    PHOTO,
    RGB,
    VIEWS,
    YIQ,
    Photo,
    blur_radius,
)

#: Luminance, the plane of the chrominances, and that plane turned by a quarter, as maps of colours,
#: which are rows of RGB and multiply from the left. Hue and saturation are a sum of the three.
_COLOURS = np.stack(
    [
        (RGB @ np.array(part, np.float32) @ YIQ).T
        for part in (
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        )
    ]
)


def build_augmentation(
    name: str, shape: tuple[int, int, int], seed: int, strengths: Photo = PHOTO
) -> keras.Sequential:
    """A model that makes a random view of every float image (N, H, W, C) in [0, 1].

    Args:
        name: "photo", for pictures of any kind: SimCLR's crop, flip, colour jitter, grey scale and
            blur (Chen et al. 2020, appendix A); "digits", for handwritten characters alone: small
            affine changes, noise and an erased box, but no flip, which would make another character
            or none.
        shape: height, width and channels of the images.
        seed: seed of the layers' generators, whose state is part of the layers' variables.
        strengths: strengths of the steps of "photo". Images without colour, C != 3, are jittered in
            brightness and contrast alone, and never made grey.

    Raises:
        ValueError: the name is unknown or a strength out of range.
    """
    # Layers with equal seeds would draw equal numbers, a flip then always with grey scale.
    seeds = range(1000 * seed, 1000 * seed + 10)
    if check_choice("augmentation", name, VIEWS) == "photo":
        layers = _photo(shape[2] == 3, strengths.checked(), seeds)
    else:
        layers = [
            RandomAffine(DIGITS.degrees, DIGITS.shift, DIGITS.scale, DIGITS.degrees, seed=seeds[0]),
            keras.layers.GaussianNoise(DIGITS.noise, seed=seeds[1]),
            keras.layers.RandomErasing(
                (DIGITS.erased,) * 2, DIGITS.erased_area, 0.0, (0.0, 1.0), seed=seeds[2]
            ),
        ]
    layers = layers or [keras.layers.Identity()]
    return keras.Sequential([network_input(shape), *layers], name="augment")


def _photo(colour: bool, strengths: Photo, seeds: Sequence[int]) -> list[keras.layers.Layer]:
    """The layers of "photo"; each has a seed of its own, whichever others are left out."""
    steps: list[keras.layers.Layer] = []
    if strengths.crop_scale < 1.0:
        area = strengths.crop_scale, 1.0
        steps.append(RandomResizedCrop(area, strengths.aspect, seed=seeds[1]))
    if strengths.flip:
        steps.append(Sometimes(mirrored, strengths.flip, seed=seeds[2]))
    if strengths.jitter:
        steps.append(Sometimes(ColorJitter(strengths, seed=seeds[0]), JITTERED, seed=seeds[3]))
    if strengths.grayscale and colour:
        steps.append(Sometimes(luminance, strengths.grayscale, seed=seeds[4]))
    if strengths.blur:
        steps.append(Sometimes(GaussianBlur(seed=seeds[5]), strengths.blur, seed=seeds[6]))
    return steps


def as_float(images: Any, dtype: str = "float32") -> Any:
    """Float images in [0, 1] from uint8 ones."""
    return ops.cast(images, dtype) / 255.0


def standardise(images: Any) -> Any:
    """The encoder's input: images in [0, 1] shifted and scaled to about mean 0 and variance 1."""
    return (images - MEAN) / DEVIATION


class Sometimes(keras.layers.Layer):
    """Apply a change to every image with a probability.

    Args:
        change: layer or function from float images (N, H, W, C) to the same shape.
        rate: probability of the change.
        seed: seed of the layer's generator.
    """

    def __init__(self, change: Callable[[Any], Any], rate: float, *, seed: int) -> None:
        super().__init__()
        self.change, self.rate = change, rate
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Float images of the same shape (N, H, W, C)."""
        drawn = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), seed=self.generator)
        return ops.where(drawn < self.rate, self.change(images), images)


def mirrored(images: Any) -> Any:
    """Images (N, H, W, C) with left and right exchanged."""
    return ops.flip(images, axis=2)


def luminance(images: Any) -> Any:
    """The luminance (N, H, W, 1) of images (N, H, W, 3)."""
    return ops.sum(ops.multiply(images, YIQ[0]), axis=3, keepdims=True)


class ColorJitter(keras.layers.Layer):
    """Brightness, contrast, saturation and hue by random factors and a random turn.

    In this order, and cut to [0, 1] once at the end. Hue and saturation turn and stretch the plane
    of the chrominances, so that they are one linear map of the colours. `RandomColorJitter` of
    Keras does not serve: it adds brightness, never lowers contrast, and on the torch backend
    changes the images that it is given.

    Args:
        strengths: strengths of "photo", of which the jitter's counts.
        seed: seed of the layer's generator.
    """

    def __init__(self, strengths: Photo, *, seed: int) -> None:
        super().__init__()
        self.factors, self.turn = strengths.factors, 2.0 * math.pi * strengths.turn
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Jittered float images (N, H, W, C); without colour, C != 3, in the first two alone."""
        height, width, channels = images.shape[1:]
        # In one draw, since on the torch backend the n-th draw of a seed is the first of seed + n.
        drawn = keras.random.uniform((4, ops.shape(images)[0]), seed=self.generator)
        low, high = self.factors
        light, contrast, saturation = (low + (high - low) * drawn[i] for i in range(3))
        images = images * light[:, None, None, None]
        grey = luminance(images) if channels == 3 else images
        mean = ops.mean(grey, axis=(1, 2, 3), keepdims=True)
        images = mean + contrast[:, None, None, None] * (images - mean)
        if channels == 3:
            angle = self.turn * (2.0 * drawn[3] - 1.0)
            c, s = saturation * ops.cos(angle), saturation * ops.sin(angle)
            shares = ops.stack([ops.ones_like(c), c, s], axis=1)
            colours = ops.tensordot(shares, _COLOURS, axes=1)  # (N, 3, 3)
            pixels = ops.matmul(ops.reshape(images, (-1, height * width, 3)), colours)
            images = ops.reshape(pixels, (-1, height, width, 3))
        return ops.clip(images, 0.0, 1.0)


class GaussianBlur(keras.layers.Layer):
    """A Gaussian blur along either axis, of images that are mirrored at their border.

    As sums of shifted images: a convolution with a kernel for every image would be slow.

    Args:
        seed: seed of the layer's generator.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Float images of the same shape (N, H, W, C)."""
        sigma = drawn(ops.shape(images)[0], BLUR_SIGMA, self.generator)[:, None]
        for axis in (1, 2):
            size = images.shape[axis]
            radius = blur_radius(size)
            offsets = ops.arange(-radius, radius + 1, dtype="float32")
            weights = ops.exp(-0.5 * (offsets / sigma) ** 2)
            weights = (weights / ops.sum(weights, axis=1, keepdims=True))[:, :, None, None, None]
            margins = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
            padded = ops.pad(images, margins, mode="reflect")
            take = [slice(None)] * axis
            images = sum(
                weights[:, i] * padded[(*take, slice(i, i + size))] for i in range(2 * radius + 1)
            )
        return images
