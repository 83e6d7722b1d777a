"""The loss and the untrained method that settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import dtypes

from fmicl_keras.augment import build_augmentation
from fmicl_keras.backend import library
from fmicl_keras.encoders import build_encoder
from fmicl_keras.method import Loss, Method
from fmicl_keras.moco import MoCo
from fmicl_keras.moco_v3 import MoCoV3
from fmicl_keras.replicas import gather, replica_count
from fmicl_keras.shares import shared_out
from fmicl_keras.simclr import SimCLR
from fmicl_recipes.checks import check_jax_precision
from fmicl_recipes.choices import QUEUE_LOSSES
from fmicl_recipes.losses import loss_of
from fmicl_recipes.methods import method_options
from fmicl_recipes.settings import TrainSettings

#: The class of each method of `fmicl_recipes.choices.METHODS`.
METHODS: dict[str, Any] = {"simclr": SimCLR, "moco": MoCo, "moco-v3": MoCoV3}

#: Keras' names of the precisions.
POLICIES = {"bf16": "mixed_bfloat16", "32": "float32", "64": "float64"}


def build_loss(settings: TrainSettings) -> Loss:
    """The loss that settings name, from the Keras backend's library, of all replicas together.

    Args:
        settings: options of the run.
    """
    loss = loss_of(settings, library())
    if settings.loss in (*QUEUE_LOSSES, "siglip"):  # which have the union's already
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
    check_precision(settings)
    keras.utils.set_random_seed(settings.seed)
    method = untrained_method(settings, image_shape, steps)
    if replica_count() > 1 and settings.method != "moco":
        synchronise(method)  # MoCo keeps the statistics of its parts apart on purpose
    return method


def check_precision(settings: TrainSettings) -> None:
    """Let the Keras backend compute in float64 where settings ask for it.

    Raises:
        ValueError: it is JAX, and does not.
    """
    if settings.precision == "64":
        keep_float64()
    if keras.config.backend() == "jax":
        config = library("ops").jax.config
        check_jax_precision(settings.precision, config.jax_enable_x64)


def untrained_method(
    settings: TrainSettings, image_shape: tuple[int, int, int], steps: int
) -> Method:
    """The method that `build_method` builds, its weights drawn without setting Keras' seed."""
    with precision("64" if settings.precision == "64" else "32"):
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


def keep_float64() -> None:
    """Let Keras' operations keep float64, which it takes for float32 on PyTorch and JAX.

    For the whole process: Keras has the rule in one table. Models of float32 do not notice.
    """
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Let layers made within the block compute in a precision; weights are float32 at least."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[name])
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
