"""Random views of images as Keras layers: in the graph, on the device, on every backend.

What is drawn, and the conventions of the steps, are said by `fmicl_recipes.augmentation`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from fmicl_core.checks import check_choice
from fmicl_keras.geometry import affine, between, crop, inside_box, precise
from fmicl_keras.layers import network_input
from fmicl_recipes.augmentation import (
    BLUR_SIGMA,
    DEVIATION,
    DIGITS,
    JITTERED,
    MEAN,
    PHOTO,
    TURNS,
    VIEWS,
    YIQ,
    DigitDraws,
    Photo,
    PhotoDraws,
    blur_radius,
)

#: Draws that one generator makes, the first with the seed itself, the next with the seed after it:
#: those of a step do not depend on which other steps are taken.
_TOGETHER = (
    ("brightness", "contrast", "saturation", "hue"), ("area", "aspect", "top", "left"),
    ("flip",), ("jitter",), ("grey",), ("sigma",), ("blur",),
)  # fmt: skip


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
    if check_choice("augmentation", name, VIEWS) == "photo":
        views: keras.layers.Layer = PhotoViews(strengths.checked(), shape[2] == 3, 1000 * seed)
    else:
        views = DigitViews(1000 * seed)
    return keras.Sequential([network_input(shape), views], name="augment")


def as_float(images: Any, dtype: str = "float32") -> Any:
    """Float images in [0, 1] from uint8 ones."""
    return ops.cast(images, dtype) / 255.0


def standardise(images: Any) -> Any:
    """The encoder's input: images in [0, 1] shifted and scaled to about mean 0 and variance 1."""
    return (images - MEAN) / DEVIATION


class PhotoViews(keras.layers.Layer):
    """Views by crop, flip, colour jitter in 4 of 5 images, grey scale and blur.

    Args:
        strengths: strengths of the steps; a step of strength 0 is left out.
        colour: whether images have three channels.
        seed: seed of the first generator, the next having the numbers after it.
    """

    def __init__(self, strengths: Photo, colour: bool, seed: int) -> None:
        super().__init__()
        self.strengths = strengths
        drawn = {
            "area": strengths.crop_scale < 1.0,
            "flip": strengths.flip,
            "jitter": strengths.jitter,
            "brightness": strengths.jitter,
            "grey": strengths.grayscale and colour,
            "blur": strengths.blur,
            "sigma": strengths.blur,
        }
        self.generators = {
            number: keras.random.SeedGenerator(seed + number)
            for number, names in enumerate(_TOGETHER)
            if drawn[names[0]]
        }

    def call(self, images: Any) -> Any:
        """Random views (N, H, W, C) of float images (N, H, W, C)."""
        return photo_view(images, self.draw(images), self.strengths)

    def draw(self, images: Any) -> PhotoDraws:
        """Random numbers (N, 1, 1, 1) for images; None where no step needs them."""
        draws: dict[str, Any] = dict.fromkeys(PhotoDraws._fields)
        for number, generator in self.generators.items():
            names = _TOGETHER[number]
            draws |= zip(names, numbers(len(names), images, 3, generator), strict=True)
        return PhotoDraws(**draws)


class DigitViews(keras.layers.Layer):
    """Views by rotation, shear, shift, scale, noise and an erased box, as strong as `DIGITS`.

    Args:
        seed: seed of the first of three generators, the next having the numbers after it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.place, self.noise, self.box = (
            keras.random.SeedGenerator(seed + number) for number in range(3)
        )

    def call(self, images: Any) -> Any:
        """Random views (N, H, W, C) of float images (N, H, W, C)."""
        return digit_view(images, self.draw(images))

    def draw(self, images: Any) -> DigitDraws:
        """Random numbers (N, 1, 1) for images, and noise of their shape."""
        place, box = (numbers(5, images, 2, generator) for generator in (self.place, self.box))
        noise = keras.random.normal(ops.shape(images), dtype=precise(images), seed=self.noise)
        return DigitDraws._make([*place, *box, noise])


def numbers(count: int, images: Any, ones: int, generator: Any) -> list[Any]:
    """Random numbers in [0, 1) for images, `count` of each, of shape (N, 1, ..., 1).

    In one draw, since on the torch backend the n-th draw of a seed is the first of seed + n.
    """
    shape = (count, ops.shape(images)[0], *[1] * ones)
    return list(
        ops.unstack(keras.random.uniform(shape, dtype=precise(images), seed=generator), count)
    )


def photo_view(images: Any, draws: PhotoDraws, strengths: Photo = PHOTO) -> Any:
    """The views that draws (N, 1, 1, 1) make of float images (N, H, W, C)."""
    if strengths.crop_scale < 1.0:
        images = crop(images, draws, (strengths.crop_scale, 1.0), strengths.aspect)
    if strengths.flip:
        images = ops.where(draws.flip < strengths.flip, ops.flip(images, axis=2), images)
    if strengths.jitter:
        images = ops.where(draws.jitter < JITTERED, jitter(images, draws, strengths), images)
    if strengths.grayscale and images.shape[3] == 3:
        images = ops.where(draws.grey < strengths.grayscale, luminance(images), images)
    if strengths.blur:
        images = ops.where(draws.blur < strengths.blur, blur(images, draws.sigma), images)
    return images


def digit_view(images: Any, draws: DigitDraws) -> Any:
    """The views that draws, (N, 1, 1) each, make of float images (N, H, W, C)."""
    bound = math.radians(DIGITS.degrees)
    angle, shear = (between(u, -bound, bound) for u in (draws.angle, draws.shear))
    right, down = (between(u, -DIGITS.shift, DIGITS.shift) for u in (draws.right, draws.down))
    images = affine(images, angle, shear, between(draws.scale, *DIGITS.scale), right, down)
    images = images + DIGITS.noise * draws.noise
    box = inside_box(images, draws, DIGITS.erased_area, DIGITS.erased_aspect)
    return ops.where(box & (draws.erased < DIGITS.erased)[..., None], 0.0, images)


def luminance(images: Any) -> Any:
    """The luminance (N, H, W, 1) of images (N, H, W, 3)."""
    return ops.sum(images * ops.convert_to_tensor(YIQ[0], images.dtype), axis=3, keepdims=True)


def jitter(images: Any, draws: PhotoDraws, strengths: Photo) -> Any:
    """Brightness, contrast, saturation and hue, which are one affine map of the colours.

    `RandomColorJitter` of Keras does not serve: it adds brightness, never lowers contrast, and on
    the torch backend changes the images that it is given.
    """
    colour = images.shape[3] == 3
    images = images * between(draws.brightness, *strengths.factors)
    contrast = between(draws.contrast, *strengths.factors)
    grey = luminance(images) if colour else images
    mean = ops.mean(grey, axis=(1, 2, 3), keepdims=True)
    images = mean + contrast * (images - mean)
    if colour:
        angle = 2.0 * math.pi * between(draws.hue, -strengths.turn, strengths.turn)
        factor = between(draws.saturation, *strengths.factors)
        still, cosine, sine = (ops.convert_to_tensor(turn, images.dtype) for turn in TURNS)
        colours = still + factor * ops.cos(angle) * cosine + factor * ops.sin(angle) * sine
        images = sum(  # no matrix product, which accelerators would cut to 10 bits
            images[..., c : c + 1] * colours[..., c][:, :, None] for c in range(3)
        )
    return ops.clip(images, 0.0, 1.0)


def blur(images: Any, sigma: Any) -> Any:
    """A Gaussian blur along either axis, of images that are mirrored at their border.

    As sums of shifted images: a convolution with a kernel for every image would be slow.
    """
    sigma = between(sigma, *BLUR_SIGMA)
    for axis in (1, 2):
        size = images.shape[axis]
        radius = blur_radius(size)
        weights = [ops.exp(-0.5 * (shift / sigma) ** 2) for shift in range(-radius, radius + 1)]
        total = sum(weights)
        margins = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = ops.pad(images, margins, mode="reflect")
        take = [slice(None)] * axis
        images = sum(
            weight / total * padded[(*take, slice(i, i + size))] for i, weight in enumerate(weights)
        )
    return images
