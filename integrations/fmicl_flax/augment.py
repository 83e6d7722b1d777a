"""Random views of images in JAX, one image at a time; `jax.vmap` gives every image its own key.

What is drawn, and the conventions of the steps, are said by `fmicl_recipes.augmentation`.
"""

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
    TURNS,
    VIEWS,
    YIQ,
    DigitDraws,
    Photo,
    PhotoDraws,
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
    """A random view by crop, flip, colour jitter in 4 of 5 images, grey scale and blur.

    Args:
        key: random key of this image.
        image: float image (H, W, C) in [0, 1].
        strengths: strengths of the steps; a step of strength 0 is left out.
    """
    return photo_view(image, photo_draws(key, image.dtype), strengths)


def digits(key: jax.Array, image: jax.Array) -> jax.Array:
    """A view by rotation, shear, shift, scale, noise and an erased box, as strong as `DIGITS`."""
    return digit_view(image, digit_draws(key, image))


def photo_draws(key: jax.Array, dtype: Any = jnp.float32) -> PhotoDraws:
    """Random numbers for a view by "photo"."""
    numbers = jax.random.uniform(key, (11,), dtype)
    return PhotoDraws(*numbers, *jax.random.uniform(jax.random.fold_in(key, 1), (2,), dtype))


def digit_draws(key: jax.Array, image: jax.Array) -> DigitDraws:
    """Random numbers for a view of an image by "digits", and noise of its shape."""
    place, pixels, box = jax.random.split(key, 3)
    affine, erasure = (jax.random.uniform(part, (5,), image.dtype) for part in (place, box))
    noise = jax.random.normal(pixels, image.shape, image.dtype)
    return DigitDraws._make([*affine, *erasure, noise])


def photo_view(image: jax.Array, draws: PhotoDraws, strengths: Photo = PHOTO) -> jax.Array:
    """The view that draws make of a float image (H, W, C), with steps of some strengths."""
    if strengths.crop_scale < 1.0:
        image = _crop(image, draws, strengths)
    if strengths.flip:
        image = jnp.where(draws.flip < strengths.flip, image[:, ::-1], image)
    if strengths.jitter:
        image = jnp.where(draws.jitter < JITTERED, _jitter(image, draws, strengths), image)
    if strengths.grayscale and image.shape[2] == 3:
        image = jnp.where(draws.grey < strengths.grayscale, _grey(image), image)
    if strengths.blur:
        image = jnp.where(draws.blur < strengths.blur, _blur(image, draws.sigma), image)
    return image


def digit_view(image: jax.Array, draws: DigitDraws) -> jax.Array:
    """The view that draws make of a float image (H, W, C)."""
    image = _affine(image, draws) + DIGITS.noise * draws.noise
    return jnp.where(_box(image, draws), 0.0, image)


def _between(unit: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * unit


def _shares(
    draws: PhotoDraws | DigitDraws, areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Height and width of a box as shares of the sides; they may be more than 1."""
    root = jnp.sqrt(_between(draws.area, *areas))
    stretch = jnp.exp(0.5 * _between(draws.aspect, *map(math.log, aspects)))
    return root * stretch, root / stretch


def _crop(image: jax.Array, draws: PhotoDraws, strengths: Photo) -> jax.Array:
    """A box of random area and aspect, resized bilinearly to the whole image.

    Two small products serve where a gather would be slow. They are asked for in full precision,
    which accelerators would otherwise cut to 10 bits.
    """
    shares = _shares(draws, (strengths.crop_scale, 1.0), strengths.aspect)
    rows, columns = (
        _line(jnp.minimum(share, 1.0), place, size)
        for share, place, size in zip(shares, (draws.top, draws.left), image.shape[:2], strict=True)
    )
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def _line(share: jax.Array, place: jax.Array, size: int) -> jax.Array:
    """Weights (size, size) by which the pixels of a line come from the `share` of it at `place`."""
    centre = (
        (jnp.arange(size, dtype=share.dtype) + 0.5) * share + size * (1.0 - share) * place - 0.5
    )
    centre = jnp.clip(centre, 0.0, size - 1.0)
    return jnp.maximum(1.0 - jnp.abs(centre[:, None] - jnp.arange(size)), 0.0)


def _jitter(image: jax.Array, draws: PhotoDraws, strengths: Photo) -> jax.Array:
    """Brightness, contrast, saturation and hue, which are one affine map of the colours."""
    image = image * _between(draws.brightness, *strengths.factors)
    contrast = _between(draws.contrast, *strengths.factors)
    colour = image.shape[2] == 3
    image = contrast * image + (1.0 - contrast) * (_grey(image) if colour else image).mean()
    if colour:
        angle = 2.0 * math.pi * _between(draws.hue, -strengths.turn, strengths.turn)
        factor = _between(draws.saturation, *strengths.factors)
        still, cosine, sine = TURNS
        colours = still + factor * jnp.cos(angle) * cosine + factor * jnp.sin(angle) * sine
        image = (image[:, :, None, :] * colours).sum(axis=3)
    return jnp.clip(image, 0.0, 1.0)


def _grey(image: jax.Array) -> jax.Array:
    """The luminance (H, W, 1) of an image (H, W, 3)."""
    return (image * YIQ[0]).sum(axis=2, keepdims=True)


def _blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """A Gaussian blur along either axis, of an image that is mirrored at its border.

    As sums of shifted images: a convolution with a kernel for every image would be slow.
    """
    sigma = _between(sigma, *BLUR_SIGMA)
    for axis, size in enumerate(image.shape[:2]):
        radius = blur_radius(size)
        weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1, dtype=sigma.dtype) / sigma) ** 2)
        weights = weights / weights.sum()
        margins = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(image, margins, mode="reflect")
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(weights))
        )
        image = sum(w * part for w, part in zip(weights, shifted, strict=True))
    return image


def _affine(image: jax.Array, draws: DigitDraws) -> jax.Array:
    """Rotate, shear, scale and shift about the centre in one interpolation; zeros come in."""
    height, width = image.shape[:2]
    bound = math.radians(DIGITS.degrees)
    angle, tilt = (_between(u, -bound, bound) for u in (draws.angle, draws.shear))
    down, right = (_between(u, -DIGITS.shift, DIGITS.shift) for u in (draws.down, draws.right))
    scale = _between(draws.scale, *DIGITS.scale)
    middle = (height - 1) / 2.0, (width - 1) / 2.0
    i = jnp.arange(height, dtype=image.dtype)[:, None] - middle[0] - height * down
    j = jnp.arange(width, dtype=image.dtype) - middle[1] - width * right
    c, s, t = jnp.cos(angle) / scale, jnp.sin(angle) / scale, jnp.tan(tilt)
    source = [(c + s * t) * i - s * j + middle[0], (s - c * t) * i + c * j + middle[1]]

    def read(channel: jax.Array) -> jax.Array:
        return map_coordinates(channel, source, order=1)

    return jax.vmap(read, in_axes=2, out_axes=2)(image)


def _box(image: jax.Array, draws: DigitDraws) -> jax.Array:
    """Which pixels (H, W, 1) are erased: those of a random box, in some images."""
    shares = _shares(draws, DIGITS.erased_area, DIGITS.erased_aspect)
    inside = []
    for size, share, place in zip(image.shape[:2], shares, (draws.top, draws.left), strict=True):
        start = size * (1.0 - share) * place
        centre = jnp.arange(size, dtype=share.dtype) + 0.5
        inside.append((centre >= start) & (centre < start + size * share))
    return inside[0][:, None, None] & inside[1][:, None] & (draws.erased < DIGITS.erased)
