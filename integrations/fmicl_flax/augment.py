"""Random views of images in JAX, one image at a time; `jax.vmap` gives every image its own key."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fmicl_core.checks import check_choice
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

#: From a key and a float image (H, W, C) in [0, 1] to one random view of the same shape.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def build_augmentation(name: str, strengths: Photo = PHOTO) -> Augment:
    """A function that makes a random view of one float image (H, W, C) in [0, 1].

    Equal arguments give the same object, so that equal runs share one compiled step.

    Args:
        name: "photo", for pictures of any kind: SimCLR's crop, flip, colour jitter, grey scale and
            blur (Chen et al. 2020, appendix A); "digits", for handwritten characters alone: small
            affine changes, noise and an erased box, but no flip, which would make another character
            or none.
        strengths: strengths of the steps of "photo". Images without colour, C != 3, are jittered in
            brightness and contrast alone, and never made grey.

    Raises:
        ValueError: the name is unknown or a strength out of range.
    """
    if check_choice("augmentation", name, VIEWS) == "photo":
        return _photo(strengths.checked())
    return digits


@lru_cache(maxsize=16)
def _photo(strengths: Photo) -> Augment:
    return partial(photo, strengths=strengths)


def as_float(images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Float images in [0, 1] from uint8 ones."""
    return images.astype(dtype) / 255.0


def standardise(images: jax.Array) -> jax.Array:
    """The encoder's input: images in [0, 1] shifted and scaled to about mean 0 and variance 1."""
    return (images - MEAN) / DEVIATION


def photo(key: jax.Array, image: jax.Array, strengths: Photo = PHOTO) -> jax.Array:
    """A view by crop, flip, colour jitter in 4 of 5 images, grey scale and blur.

    Args:
        key: random key of this image.
        image: float image (H, W, C) in [0, 1].
        strengths: strengths of the steps; a step of strength 0 is left out.
    """
    area, aspect, top, left, flip, jitter, *changes, grey = jax.random.uniform(key, (11,))
    if strengths.crop_scale < 1.0:
        image = _crop(image, strengths, area, aspect, top, left)
    if strengths.flip:
        image = jnp.where(flip < strengths.flip, image[:, ::-1], image)
    if strengths.jitter:
        image = jnp.where(jitter < JITTERED, _jitter(image, strengths, *changes), image)
    if strengths.grayscale and image.shape[2] == 3:
        luminance = (image * YIQ[0]).sum(axis=2, keepdims=True)
        image = jnp.where(grey < strengths.grayscale, luminance, image)
    if strengths.blur:
        chosen, sigma = jax.random.uniform(jax.random.fold_in(key, 1), (2,))
        image = jnp.where(chosen < strengths.blur, _blur(image, sigma), image)
    return image


def digits(key: jax.Array, image: jax.Array) -> jax.Array:
    """A view by rotation, shear, shift, scale, noise and an erased box, as strong as `DIGITS`."""
    place, noise, box = jax.random.split(key, 3)
    image = _affine(image, *jax.random.uniform(place, (5,)))
    image = image + DIGITS.noise * jax.random.normal(noise, image.shape)
    return _erase(image, *jax.random.uniform(box, (5,)))


def _between(unit: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * unit


def _crop(
    image: jax.Array,
    strengths: Photo,
    area: jax.Array,
    aspect: jax.Array,
    top: jax.Array,
    left: jax.Array,
) -> jax.Array:
    """A box of random area and aspect ratio, resized bilinearly to the whole image.

    A side that would leave the image is cut to it. Two small products serve where a gather would be
    slow.
    """
    root = jnp.sqrt(_between(area, strengths.crop_scale, 1.0))
    stretch = jnp.exp(0.5 * _between(aspect, *map(math.log, strengths.aspect)))
    rows = _line(jnp.minimum(root * stretch, 1.0), top, image.shape[0])
    columns = _line(jnp.minimum(root / stretch, 1.0), left, image.shape[1])
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns)


def _line(share: jax.Array, place: jax.Array, size: int) -> jax.Array:
    """Weights (size, size) by which the pixels of a line come from the `share` of it at `place`."""
    centre = (jnp.arange(size) + 0.5) * share + size * (1.0 - share) * place - 0.5
    centre = jnp.clip(centre, 0.0, size - 1.0)
    return jnp.maximum(1.0 - jnp.abs(centre[:, None] - jnp.arange(size)), 0.0)


def _jitter(
    image: jax.Array,
    strengths: Photo,
    brightness: jax.Array,
    contrast: jax.Array,
    saturation: jax.Array,
    hue: jax.Array,
) -> jax.Array:
    """Brightness, contrast, saturation and hue by random factors and a random turn.

    In this order, and cut to [0, 1] once at the end. Hue and saturation turn and stretch the plane
    of the chrominances, so that all four are one affine map of the colours.
    """
    image = image * _between(brightness, *strengths.factors)
    contrast = _between(contrast, *strengths.factors)
    grey = image * YIQ[0] * 3.0 if image.shape[2] == 3 else image
    image = contrast * image + (1.0 - contrast) * grey.mean()
    if image.shape[2] == 3:
        angle = 2.0 * math.pi * _between(hue, -strengths.turn, strengths.turn)
        factor = _between(saturation, *strengths.factors)
        c, s = factor * jnp.cos(angle), factor * jnp.sin(angle)
        colours = RGB @ jnp.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ YIQ
        image = (image[:, :, None, :] * colours).sum(axis=3)
    return jnp.clip(image, 0.0, 1.0)


def _blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """A Gaussian blur along either axis, of an image that is mirrored at its border.

    As sums of shifted images: a convolution with a kernel for every image would be slow.
    """
    sigma = _between(sigma, *BLUR_SIGMA)
    for axis, size in enumerate(image.shape[:2]):
        radius = blur_radius(size)
        weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
        weights = weights / weights.sum()
        margins = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(image, margins, mode="reflect")
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(weights))
        )
        image = sum(w * part for w, part in zip(weights, shifted, strict=True))
    return image


def _affine(
    image: jax.Array,
    angle: jax.Array,
    shear: jax.Array,
    scale: jax.Array,
    right: jax.Array,
    down: jax.Array,
) -> jax.Array:
    """Rotate, shear, scale and shift about the centre in one interpolation; zeros come in."""
    height, width = image.shape[:2]
    bound = math.radians(DIGITS.degrees)
    angle, tilt = (_between(u, -bound, bound) for u in (angle, shear))
    c, s = jnp.cos(angle), jnp.sin(angle)
    middle = jnp.array([(height - 1) / 2.0, (width - 1) / 2.0])[:, None, None]
    shift = jnp.array([height, width]) * _between(
        jnp.stack([down, right]), -DIGITS.shift, DIGITS.shift
    )
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    back = jnp.array([[c, -s], [s, c]]) @ jnp.array([[1.0, 0.0], [-jnp.tan(tilt), 1.0]])
    source = jnp.einsum("ij,jhw->ihw", back, grid - middle - shift[:, None, None])
    source = source / _between(scale, *DIGITS.scale) + middle

    def read(channel: jax.Array) -> jax.Array:
        return map_coordinates(channel, list(source), order=1)

    return jax.vmap(read, in_axes=2, out_axes=2)(image)


def _erase(
    image: jax.Array,
    chosen: jax.Array,
    area: jax.Array,
    aspect: jax.Array,
    top: jax.Array,
    left: jax.Array,
) -> jax.Array:
    """In some images a box of random area and aspect ratio becomes black."""
    root = jnp.sqrt(_between(area, *DIGITS.erased_area))
    stretch = jnp.exp(0.5 * _between(aspect, *map(math.log, DIGITS.erased_aspect)))
    inside = []
    for size, share, place in (
        (image.shape[0], root * stretch, top), (image.shape[1], root / stretch, left),
    ):  # fmt: skip
        start = size * (1.0 - share) * place
        centre = jnp.arange(size) + 0.5
        inside.append((centre >= start) & (centre < start + size * share))
    box = inside[0][:, None, None] & inside[1][None, :, None] & (chosen < DIGITS.erased)
    return jnp.where(box, 0.0, image)
