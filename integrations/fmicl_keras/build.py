"""The loss and the untrained method that settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from fmicl_keras.augment import build_augmentation
from fmicl_keras.backend import library
from fmicl_keras.encoders import build_encoder
from fmicl_keras.method import Loss, Method
from fmicl_keras.moco import MoCo
from fmicl_keras.moco_v3 import MoCoV3
from fmicl_keras.replicas import gather, replica_count
from fmicl_keras.shares import shared_out
from fmicl_keras.simclr import SimCLR
from fmicl_recipes.losses import loss_of
from fmicl_recipes.methods import method_options
from fmicl_recipes.settings import TrainSettings

#: The class of each method of `fmicl_recipes.settings.METHODS`.
METHODS: dict[str, Any] = {"simclr": SimCLR, "moco": MoCo, "moco-v3": MoCoV3}


def build_loss(settings: TrainSettings) -> Loss:
    """The loss that settings name, from the Keras backend's library, of all replicas together."""
    loss = loss_of(settings, library())
    if settings.loss in ("fmicl", "info-nce"):  # which have the union's already
        return lambda x, y=None, ids=None, **bank: shared_out(
            loss, {"x": x, "y": y, "ids": ids}, **bank
        )
    return lambda x, y: loss(gather(x), gather(y))


def build_method(settings: TrainSettings, image_shape: tuple[int, int, int], steps: int) -> Method:
    """The untrained method that settings name; equal settings give equal weights.

    Args:
        settings: settings of a run.
        image_shape: height, width and channels of the images.
        steps: number of steps of the whole run.

    Raises:
        ValueError: the encoder is unknown, or does not fit the images.
    """
    keras.utils.set_random_seed(settings.seed)
    method = untrained_method(settings, image_shape, steps)
    if replica_count() > 1 and settings.method != "moco":
        synchronise(method)  # MoCo keeps the statistics of its parts apart on purpose
    return method


def untrained_method(
    settings: TrainSettings, image_shape: tuple[int, int, int], steps: int
) -> Method:
    """The method that `build_method` builds, its weights drawn without setting Keras' seed."""
    augment = build_augmentation(
        settings.augmentation, image_shape, settings.seed, settings.photo_on_device()
    )
    with precision(settings.precision):
        encoder = build_encoder(
            settings.encoder, image_shape, settings.width,
            stem_stride=settings.stem_stride, patch_size=settings.patch_size,
        )  # fmt: skip
        options = method_options(settings)
        if settings.method == "moco-v3":
            options["steps"] = steps
        method: Method = METHODS[settings.method](
            encoder, encoder.output_shape[-1], build_loss(settings), augment, **options
        )
    return method


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Let layers made within the block compute in "32" or "bf16"; weights stay in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy({"bf16": "mixed_bfloat16", "32": "float32"}[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def synchronise(model: keras.Model) -> None:
    """Let batch norms take their statistics over all replicas of `tf.distribute`."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def state(model: keras.Model) -> list[Any]:
    """Every variable of a method except its metrics': weights, statistics, queue, seeds."""
    measured = {id(v) for v in model.metrics_variables}
    return [v for v in model.variables if id(v) not in measured]
