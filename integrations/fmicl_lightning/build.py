"""The loss and the untrained method that settings name."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import nn

import fmicl_torch
from fmicl_lightning.augment import build_augmentation
from fmicl_lightning.encoders import build_encoder, feature_width
from fmicl_lightning.method import Loss, Method
from fmicl_lightning.moco import MoCo
from fmicl_lightning.moco_v3 import MoCoV3
from fmicl_lightning.simclr import SimCLR
from fmicl_recipes.losses import loss_of
from fmicl_recipes.methods import method_options
from fmicl_recipes.settings import TrainSettings

#: The class of each method of `fmicl_recipes.choices.METHODS`.
METHODS: dict[str, Any] = {"simclr": SimCLR, "moco": MoCo, "moco-v3": MoCoV3}
#: Settings that every method takes, beside its own.
TRAINING = ("optimizer", "lr", "momentum", "weight_decay", "warmup_epochs", "seed")


def build_loss(settings: TrainSettings) -> Loss:
    """The loss that settings name, from `fmicl_torch`.

    Args:
        settings: options of the run.
    """
    loss: Any = loss_of(settings, fmicl_torch)
    if settings.loss != "fmicl":
        return loss
    # An object knows its formulas before a step is compiled, which is one graph in any PyTorch.
    return fmicl_torch.FMICLLoss(**loss.keywords)


def untrained_encoder(
    settings: TrainSettings, image_shape: tuple[int, int, int]
) -> tuple[nn.Module, int]:
    """The untrained encoder that settings name, and the width of its features.

    Args:
        settings: settings of a run.
        image_shape: height, width and channels of the images.

    Raises:
        ValueError: the encoder is unknown, or does not fit the images.
    """
    height, width, channels = image_shape
    encoder = build_encoder(
        settings.encoder, channels, settings.width,
        stem_stride=settings.stem_stride, patch_size=settings.patch_size,
    )  # fmt: skip
    return encoder, feature_width(encoder, (channels, height, width))


def build_method(settings: TrainSettings, image_shape: tuple[int, int, int]) -> Method:
    """The untrained method that settings name; equal settings give equal weights.

    Args:
        settings: settings of a run.
        image_shape: height, width and channels of the images.

    Raises:
        ValueError: the encoder is unknown, or does not fit the images.
    """
    height, width, _ = image_shape
    lightning.seed_everything(settings.seed, verbose=False)
    encoder, features = untrained_encoder(settings, image_shape)
    options = {name: getattr(settings, name) for name in TRAINING} | method_options(settings)
    method: Method = METHODS[settings.method](
        encoder,
        features,
        build_loss(settings),
        build_augmentation(settings.augmentation, (height, width), settings.photo_on_device()),
        **options,
    )
    if settings.precision == "64":
        method.double()
    if settings.compile:
        method.compile()
    return method.to(memory_format=torch.channels_last)
