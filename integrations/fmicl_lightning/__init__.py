"""Contrastive trainers in PyTorch Lightning."""

from fmicl_lightning.augment import build_augmentation
from fmicl_lightning.build import build_loss, build_simclr
from fmicl_lightning.encoders import build_encoder
from fmicl_lightning.simclr import SimCLR
from fmicl_lightning.train import MethodTrainer

__all__ = [
    "MethodTrainer",
    "SimCLR",
    "build_augmentation",
    "build_encoder",
    "build_loss",
    "build_simclr",
]
