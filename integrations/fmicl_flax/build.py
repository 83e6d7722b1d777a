"""The loss and the untrained method that settings name."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import fmicl_jax
from fmicl_flax.augment import build_augmentation
from fmicl_flax.devices import over_devices
from fmicl_flax.encoders import build_encoder, feature_width
from fmicl_flax.layers import weights_dtype
from fmicl_flax.method import Loss, Method
from fmicl_flax.moco import MoCo
from fmicl_flax.moco_v3 import MoCoV3
from fmicl_flax.simclr import SimCLR
from fmicl_recipes.checks import check_jax_precision
from fmicl_recipes.losses import loss_of
from fmicl_recipes.methods import method_options
from fmicl_recipes.settings import TrainSettings

#: The class of each method of `fmicl_recipes.choices.METHODS`.
METHODS: dict[str, Any] = {"simclr": SimCLR, "moco": MoCo, "moco-v3": MoCoV3}
DTYPES = {"32": jnp.float32, "bf16": jnp.bfloat16, "64": jnp.float64}


def build_loss(settings: TrainSettings) -> Loss:
    """The loss that settings name, from `fmicl_jax`.

    Equal settings give the same object, so that equal runs share one compiled step.

    Args:
        settings: options of the run.
    """
    loss = loss_of(settings, fmicl_jax)
    if not isinstance(loss, partial):
        return loss
    return _only(loss.func, **loss.keywords)


@lru_cache(maxsize=16)
def _only(function: Loss, **options: Any) -> Loss:
    """One `partial(function, **options)` for equal arguments, as two would not compare equal."""
    return partial(function, **options)


def untrained_encoder(
    settings: TrainSettings, image_shape: tuple[int, int, int], rngs: nnx.Rngs
) -> tuple[nnx.Module, int]:
    """The untrained encoder that settings name, and the width of its features.

    Args:
        settings: settings of a run.
        image_shape: height, width and channels of the images.
        rngs: random numbers for the weights.

    Raises:
        ValueError: the encoder is unknown, or does not fit the images.
    """
    encoder = build_encoder(
        settings.encoder, image_shape[2], settings.width, stem_stride=settings.stem_stride,
        patch_size=settings.patch_size, dtype=DTYPES[settings.precision], rngs=rngs,
    )  # fmt: skip
    return encoder, feature_width(encoder, image_shape)


def build_method(
    settings: TrainSettings, image_shape: tuple[int, int, int], mesh: Mesh | None = None
) -> Method:
    """The untrained method that settings name; equal settings give equal weights.

    Args:
        settings: settings of a run.
        image_shape: height, width and channels of the images.
        mesh: devices that share its batches; None: one device.

    Raises:
        ValueError: the encoder is unknown, or does not fit the images.
    """
    check_jax_precision(settings.precision, bool(jax.config.read("jax_enable_x64")))
    rngs = nnx.Rngs(settings.seed)
    encoder, features = untrained_encoder(settings, image_shape, rngs)
    loss = build_loss(settings)
    method: Method = METHODS[settings.method](
        encoder,
        features,
        loss if mesh is None else over_devices(loss, mesh),
        build_augmentation(settings.augmentation, settings.photo_on_device()),
        **method_options(settings),
        dtype=weights_dtype(DTYPES[settings.precision]),
        rngs=rngs,
    )
    return method
