"""Random views of images in JAX, one image at a time; `jax.vmap` gives every image its own key."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from fmicl_core.checks import check_choice
from fmicl_recipes.settings import AUGMENTATIONS

#: From a key and a float image (H, W, C) in [0, 1] to one random view of the same shape.
Augment = Callable[[jax.Array, jax.Array], jax.Array]

#: From RGB to luminance and two chrominances, in whose plane hue is an angle (NTSC).
YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32
)
RGB = np.linalg.inv(YIQ).astype(np.float32)
_ASPECT = math.log(4.0 / 3.0)


def build_augmentation(name: str) -> Augment:
    """Augmentation of one float image (H, W, C) in [0, 1].

    Args:
        name: "photo", SimCLR's crop, flip, colour jitter and grey scale (Chen et al. 2020,
            appendix A; strength 0.5 as for CIFAR-10, no blur); "digits", small affine changes and
            noise, no flip since a flipped digit is another or none.

    Raises:
        ValueError: the name is unknown.
    """
    return {"photo": photo, "digits": digits}[check_choice("augmentation", name, AUGMENTATIONS)]


def as_float(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0


def standardise(images: jax.Array) -> jax.Array:
    """Float images in [0, 1] to about zero mean and unit variance, the encoder's input."""
    return (images - 0.5) / 0.25


def photo(key: jax.Array, image: jax.Array) -> jax.Array:
    """Crop of 0.2 to 1 of the area, flip, colour jitter in 4 of 5 images, grey scale in 1 of 5.

    Images of one channel keep brightness and contrast alone of the colour changes.
    """
    area, aspect, top, left, flip, jitter, *changes, grey = jax.random.uniform(key, (11,))
    image = _crop(image, area, aspect, top, left)
    image = jnp.where(flip < 0.5, image[:, ::-1], image)
    image = jnp.where(jitter < 0.8, _jitter(image, *changes), image)
    if image.shape[2] == 1:
        return image
    return jnp.where(grey < 0.2, (image * YIQ[0]).sum(axis=2, keepdims=True), image)


def digits(key: jax.Array, image: jax.Array) -> jax.Array:
    """Rotation and shear to 12 degrees, shift to 12 percent, scale to 15, noise, an erased box."""
    place, noise, box = jax.random.split(key, 3)
    image = _affine(image, *jax.random.uniform(place, (5,)))
    image = image + 0.08 * jax.random.normal(noise, image.shape)
    return _erase(image, *jax.random.uniform(box, (5,)))


def _between(unit: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * unit


def _crop(
    image: jax.Array, area: jax.Array, aspect: jax.Array, top: jax.Array, left: jax.Array
) -> jax.Array:
    """A box of random area and aspect ratio (3/4 to 4/3), resized bilinearly to the whole image.

    A side that would leave the image is cut to it. Two small products serve where a gather would be
    slow.
    """
    root = jnp.sqrt(_between(area, 0.2, 1.0))
    stretch = jnp.exp(0.5 * _between(aspect, -_ASPECT, _ASPECT))
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
    brightness: jax.Array,
    contrast: jax.Array,
    saturation: jax.Array,
    hue: jax.Array,
) -> jax.Array:
    """Brightness, contrast and saturation by 0.6 to 1.4 and hue by up to a tenth of a turn.

    In this order, and cut to [0, 1] once at the end. Hue and saturation turn and stretch the plane
    of the chrominances, so that all four are one affine map of the colours.
    """
    image = image * _between(brightness, 0.6, 1.4)
    contrast = _between(contrast, 0.6, 1.4)
    grey = image if image.shape[2] == 1 else image * YIQ[0] * 3.0
    image = contrast * image + (1.0 - contrast) * grey.mean()
    if image.shape[2] == 3:
        angle = 2.0 * math.pi * _between(hue, -0.1, 0.1)
        strength = _between(saturation, 0.6, 1.4)
        c, s = strength * jnp.cos(angle), strength * jnp.sin(angle)
        colours = RGB @ jnp.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ YIQ
        image = (image[:, :, None, :] * colours).sum(axis=3)
    return jnp.clip(image, 0.0, 1.0)


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
    angle, tilt = (_between(u, -math.pi / 15.0, math.pi / 15.0) for u in (angle, shear))
    c, s = jnp.cos(angle), jnp.sin(angle)
    middle = jnp.array([(height - 1) / 2.0, (width - 1) / 2.0])[:, None, None]
    shift = jnp.array([height, width]) * _between(jnp.stack([down, right]), -0.12, 0.12)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    back = jnp.array([[c, -s], [s, c]]) @ jnp.array([[1.0, 0.0], [-jnp.tan(tilt), 1.0]])
    source = jnp.einsum("ij,jhw->ihw", back, grid - middle - shift[:, None, None])
    source = source / _between(scale, 0.85, 1.15) + middle
    read = lambda channel: map_coordinates(channel, list(source), order=1)  # noqa: E731
    return jax.vmap(read, in_axes=2, out_axes=2)(image)


def _erase(
    image: jax.Array,
    chosen: jax.Array,
    area: jax.Array,
    aspect: jax.Array,
    top: jax.Array,
    left: jax.Array,
) -> jax.Array:
    """In 3 of 10 images a box of 2 to 12 percent of the area, aspect 0.3 to 3.3, becomes black."""
    root = jnp.sqrt(_between(area, 0.02, 0.12))
    stretch = jnp.exp(0.5 * _between(aspect, math.log(0.3), math.log(3.3)))
    inside = []
    for size, share, place in (
        (image.shape[0], root * stretch, top), (image.shape[1], root / stretch, left),
    ):  # fmt: skip
        start = size * (1.0 - share) * place
        centre = jnp.arange(size) + 0.5
        inside.append((centre >= start) & (centre < start + size * share))
    box = inside[0][:, None, None] & inside[1][None, :, None] & (chosen < 0.3)
    return jnp.where(box, 0.0, image)
