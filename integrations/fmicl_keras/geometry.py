"""Random crops and affine maps of images as Keras layers, on every backend."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


class RandomResizedCrop(keras.layers.Layer):
    """Cut out a box of random area and aspect ratio, and resize it to the size of the image.

    Args:
        scale: bounds of the box's share of the area.
        ratio: bounds of width / height, drawn evenly in the logarithm.
        seed: seed of the layer's generator.

    Source: Szegedy et al. (2015), section 6, as in torchvision; a side longer than that of the
    image is cut to it instead of drawn again.
    """

    def __init__(
        self, scale: tuple[float, float], ratio: tuple[float, float], *, seed: int
    ) -> None:
        super().__init__()
        self.scale, self.log_ratio = scale, (math.log(ratio[0]), math.log(ratio[1]))
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Changed float images of the same shape (N, H, W, C)."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        area = drawn(count, self.scale, self.generator)
        half = ops.exp(0.5 * drawn(count, self.log_ratio, self.generator))
        sides = ops.minimum(ops.sqrt(area) * half, 1.0), ops.minimum(ops.sqrt(area) / half, 1.0)
        lines = [
            _crop_line(side, size, drawn(count, (0.0, 1.0), self.generator))
            for side, size in zip(sides, (width, height), strict=True)
        ]
        return bilinear(images, lines[0][:, None, :], lines[1][:, :, None])


def _crop_line(side: Any, size: int, place: Any) -> Any:
    """Where the pixels of a row come from, (N, size): `side` is the crop's share of the row."""
    centres = ops.arange(size, dtype="float32") + 0.5
    source = centres * side[:, None] + (size * (1.0 - side) * place)[:, None] - 0.5
    return ops.clip(source, 0.0, size - 1.0)


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
        scale: tuple[float, float],
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
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]

        def draw(low: float, high: float) -> Any:
            return drawn(count, (low, high), self.generator)[:, None, None]

        angle, shear = draw(-self.turn, self.turn), ops.tan(draw(-self.shear, self.shear))
        shift_x, shift_y = (draw(-self.translate, self.translate) for _ in range(2))
        shrink = 1.0 / draw(*self.scale)
        x = ops.arange(width, dtype="float32")[None, None, :] - (width - 1) / 2.0
        y = ops.arange(height, dtype="float32")[None, :, None] - (height - 1) / 2.0
        x, y = x - width * shift_x, y - height * shift_y
        turned_x = shrink * (ops.cos(angle) * x + ops.sin(angle) * y)
        turned_y = shrink * (ops.cos(angle) * y - ops.sin(angle) * x)
        source_x = turned_x - shear * turned_y + (width - 1) / 2.0
        return bilinear(images, source_x, turned_y + (height - 1) / 2.0)


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


def drawn(count: Any, bounds: tuple[float, float], generator: Any) -> Any:
    """`count` random numbers, evenly between the bounds."""
    return keras.random.uniform((count,), *bounds, seed=generator)
