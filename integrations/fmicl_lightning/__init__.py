"""Contrastive trainers in PyTorch Lightning."""

from fmicl_lightning.augment import build_augmentation
from fmicl_lightning.build import build_loss, build_simclr
from fmicl_lightning.encoders import build_encoder
from fmicl_lightning.simclr import NonFiniteLossError, SimCLR
from fmicl_lightning.train import train_simclr

__all__ = [
    "NonFiniteLossError",
    "SimCLR",
    "build_augmentation",
    "build_encoder",
    "build_loss",
    "build_simclr",
    "train_simclr",
]
