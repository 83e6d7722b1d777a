"""Random views of images as Keras layers: in the graph, on the device, on every backend."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from fmicl_core.checks import check_choice
from fmicl_recipes.settings import AUGMENTATIONS


def build_augmentation(name: str, shape: tuple[int, int, int], seed: int) -> keras.Sequential:
    """Augmentation of float images (N, H, W, C) in [0, 1], drawn anew for every image.

    Args:
        name: "photo", SimCLR's crop, flip, colour jitter and grey scale (Chen et al. 2020,
            appendix A; strength 0.5 as for CIFAR-10, no blur); "digits", small affine changes and
            noise, no flip since a flipped digit is another or none.
        shape: (H, W, C) of the images; grey images (C = 1) keep brightness and contrast alone of
            the colour changes.
        seed: of the layers' generators, whose state is part of the layers' variables.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice("augmentation", name, AUGMENTATIONS)
    # Layers with equal seeds would draw equal numbers, a flip then always with grey scale.
    seeds = iter(range(1000 * seed, 1000 * seed + 10))
    range_of = {"value_range": (0.0, 1.0)}
    if name == "digits":
        layers = [
            RandomAffine(12.0, 0.12, (0.85, 1.15), 12.0, seed=next(seeds)),
            keras.layers.GaussianNoise(0.08, seed=next(seeds)),
            keras.layers.RandomErasing(
                (0.3, 0.3), (0.02, 0.12), 0.0, seed=next(seeds), **range_of
            ),
        ]  # fmt: skip
    else:
        # Keras counts saturation as f / (1 - f), so this is [0.6, 1.4], and hue up to half a turn.
        coloured = {"saturation_factor": (0.375, 1.4 / 2.4), "hue_factor": 0.2}
        jitter = keras.layers.RandomColorJitter(
            brightness_factor=0.4, contrast_factor=0.4, seed=next(seeds),
            **(coloured if shape[2] == 3 else {}), **range_of,
        )  # fmt: skip
        layers = [
            RandomResizedCrop((0.2, 1.0), seed=next(seeds)),
            keras.layers.RandomFlip("horizontal", seed=next(seeds)),
            Sometimes(jitter, 0.8, seed=next(seeds)),
        ]
        if shape[2] == 3:
            layers.append(keras.layers.RandomGrayscale(0.2, seed=next(seeds)))
    return keras.Sequential([keras.Input(shape), *layers], name="augment")


def as_float(images: Any) -> Any:
    """uint8 images to float32 in [0, 1]."""
    return ops.cast(images, "float32") / 255.0


def standardise(images: Any) -> Any:
    """Float images in [0, 1] to about zero mean and unit variance, the encoder's input."""
    return (images - 0.5) / 0.25


class Sometimes(keras.layers.Layer):
    """Apply a layer to every image with a probability."""

    def __init__(self, layer: keras.layers.Layer, rate: float, seed: int) -> None:
        super().__init__()
        self.layer, self.rate = layer, rate
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = True) -> Any:
        """Float images (N, H, W, C) to the same shape."""
        drawn = keras.random.uniform((ops.shape(images)[0], 1, 1, 1), seed=self.generator)
        return ops.where(drawn < self.rate, self.layer(images, training=training), images)


class RandomResizedCrop(keras.layers.Layer):
    """A box of random area and aspect ratio, resized to the size of the image.

    Args:
        scale: bounds of the box's share of the area.
        ratio: bounds of width / height, drawn evenly in the logarithm.
        seed: of the layer's generator.

    Source: Szegedy et al. (2015), section 6, as in torchvision; a side longer than that of the
    image is cut to it instead of drawn again.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.scale, self.log_ratio = scale, (math.log(ratio[0]), math.log(ratio[1]))
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        """Float images (N, H, W, C) to the same shape."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]
        area = _uniform(count, self.scale, self.generator)
        half = ops.exp(0.5 * _uniform(count, self.log_ratio, self.generator))
        sides = ops.minimum(ops.sqrt(area) * half, 1.0), ops.minimum(ops.sqrt(area) / half, 1.0)
        lines = [
            _crop_line(side, size, _uniform(count, (0.0, 1.0), self.generator))
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
    """Rotation, shear, scale and shift about the centre in one interpolation; zeros come in.

    On the torch backend it is many times as fast as `keras.layers.RandomRotation` and its like,
    which go through the batch image by image.

    Args:
        degrees: bound of the rotation.
        translate: bound of the shift, as a share of the side.
        scale: bounds of the magnification.
        shear: bound of the horizontal shear in degrees.
        seed: of the layer's generator; None draws one.
        kwargs: of `keras.layers.Layer`.
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
        """Float images (N, H, W, C) to the same shape."""
        count, height, width = ops.shape(images)[0], images.shape[1], images.shape[2]

        def draw(low: float, high: float) -> Any:
            return _uniform(count, (low, high), self.generator)[:, None, None]

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

    Outside of the image there are zeros. By gathers over the whole batch: on the torch backend
    `keras.ops.image.affine_transform` goes through the batch image by image.
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
            weight = ops.cast(inside, images.dtype) * across * down
            weight = ops.reshape(weight, (-1, height * width, 1))
            total = total + weight * ops.take_along_axis(flat, index, axis=1)
    return ops.reshape(total, (-1, height, width, channels))


def _uniform(count: Any, bounds: tuple[float, float], generator: Any) -> Any:
    return keras.random.uniform((count,), *bounds, seed=generator)
