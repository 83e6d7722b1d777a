"""Crops, affine maps and boxes of images, a whole batch at once, on every backend of Keras.

The conventions are those of `fmicl_recipes.augmentation`. Functions take float images (N, H, W, C).
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

Bounds = tuple[float, float]


@keras.saving.register_keras_serializable("fmicl")
class RandomAffine(keras.layers.Layer):
    """Rotate, shear, scale and shift images about their centre in one interpolation.

    Pixels that come from outside of the image are zero.

    On the torch backend it is many times as fast as `keras.layers.RandomRotation` and its like,
    which go through the batch image by image.

    Args:
        degrees: bound of the rotation.
        translate: bound of the shift, as a share of the side.
        scale: bounds of the magnification.
        shear: bound of the horizontal shear in degrees.
        seed: seed of the layer's generator; None draws one.
        kwargs: options of `keras.layers.Layer`.
    """

    def __init__(
        self,
        degrees: float,
        translate: float,
        scale: Bounds,
        shear: float,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.turn, self.shear = math.radians(degrees), math.radians(shear)
        self.translate, self.scale = translate, scale
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Changed float images of the same shape (N, H, W, C)."""
        count, dtype = ops.shape(images)[0], precise(images)

        def draw(low: float, high: float) -> Any:
            return keras.random.uniform((count, 1, 1), low, high, dtype, self.generator)

        angle, shear = draw(-self.turn, self.turn), draw(-self.shear, self.shear)
        right, down = (draw(-self.translate, self.translate) for _ in range(2))
        return affine(images, angle, shear, draw(*self.scale), right, down)


def affine(images: Any, angle: Any, shear: Any, scale: Any, right: Any, down: Any) -> Any:
    """Rotate, shear, scale and shift about the centre in one interpolation; zeros come in.

    Angles are in radians, shifts in shares of the sides, each (N, 1, 1).
    """
    height, width = images.shape[1:3]
    middle = (height - 1) / 2.0, (width - 1) / 2.0
    i = ops.arange(height, dtype=precise(images))[:, None] - middle[0] - height * down
    j = ops.arange(width, dtype=precise(images)) - middle[1] - width * right
    c, s, t = ops.cos(angle) / scale, ops.sin(angle) / scale, ops.tan(shear)
    rows, columns = (c + s * t) * i - s * j + middle[0], (s - c * t) * i + c * j + middle[1]
    return bilinear(images, columns, rows)


def crop(images: Any, draws: Any, areas: Bounds, aspects: Bounds) -> Any:
    """A box of random area and aspect, resized bilinearly to the size of the image.

    Args:
        images: images to crop.
        draws: `PhotoDraws`, each (N, 1, 1, 1).
        areas: bounds of the box's share of the area.
        aspects: bounds of its aspect.
    """
    shares = shares_of(draws, areas, aspects)
    lines = []
    for share, place, size in zip(shares, (draws.top, draws.left), images.shape[1:3], strict=True):
        share = ops.minimum(share, 1.0)[..., 0]
        centres = (ops.arange(size, dtype=precise(images)) + 0.5) * share
        source = centres + size * (1.0 - share) * place[..., 0] - 0.5  # (N, 1, size)
        lines.append(ops.clip(source, 0.0, size - 1.0))
    return bilinear(images, lines[1], ops.swapaxes(lines[0], 1, 2))


def inside_box(images: Any, draws: Any, areas: Bounds, aspects: Bounds) -> Any:
    """Which pixels (N, H, W, 1) have their centre in a random box.

    Args:
        images: images of which only the shape counts.
        draws: `DigitDraws`, each (N, 1, 1).
        areas: bounds of the box's share of the area.
        aspects: bounds of its aspect.
    """
    shares = shares_of(draws, areas, aspects)
    inside = []
    for share, place, size in zip(shares, (draws.top, draws.left), images.shape[1:3], strict=True):
        start = size * (1.0 - share) * place
        centres = ops.arange(size, dtype=precise(images)) + 0.5
        inside.append((centres >= start) & (centres < start + size * share))  # (N, 1, size)
    return ops.swapaxes(inside[0], 1, 2)[..., None] & inside[1][..., None]


def shares_of(draws: Any, areas: Bounds, aspects: Bounds) -> tuple[Any, Any]:
    """Height and width of a box as shares of the sides; they may be more than 1."""
    root = ops.sqrt(between(draws.area, *areas))
    stretch = ops.exp(0.5 * between(draws.aspect, *map(math.log, aspects)))
    return root * stretch, root / stretch


def precise(images: Any) -> str:
    """The dtype for draws and places in images: in half precision these would be whole pixels."""
    return "float64" if keras.backend.standardize_dtype(images.dtype) == "float64" else "float32"


def between(unit: Any, low: float, high: float) -> Any:
    """The number between two bounds that a draw in [0, 1) stands for."""
    return low + (high - low) * unit


def bilinear(images: Any, x: Any, y: Any) -> Any:
    """Images (N, H, W, C) read between pixels at columns x and rows y, broadcast to (N, H, W).

    Outside of the image there are zeros. It gathers over the whole batch, where on the torch
    backend `keras.ops.image.affine_transform` goes through the batch image by image.
    """
    height, width, channels = images.shape[1:]
    flat = ops.reshape(images, (-1, height * width, channels))
    left, top = ops.floor(x), ops.floor(y)
    total: Any = 0.0
    for column, across in ((left, left + 1.0 - x), (left + 1.0, x - left)):
        for row, down in ((top, top + 1.0 - y), (top + 1.0, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = ops.clip(row, 0, height - 1) * width + ops.clip(column, 0, width - 1)
            index = ops.reshape(ops.cast(index, "int32"), (-1, height * width, 1))
            weight = ops.cast(ops.cast(inside, across.dtype) * across * down, images.dtype)
            weight = ops.reshape(weight, (-1, height * width, 1))
            total = total + weight * ops.take_along_axis(flat, index, axis=1)
    return ops.reshape(total, (-1, height, width, channels))
