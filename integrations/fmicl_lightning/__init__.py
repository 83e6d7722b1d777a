"""Contrastive trainers in PyTorch Lightning: SimCLR, MoCo and MoCo v3."""

from fmicl_lightning.augment import build_augmentation
from fmicl_lightning.build import build_loss, build_method
from fmicl_lightning.encoders import build_encoder
from fmicl_lightning.loading import features, load_encoder
from fmicl_lightning.moco import MoCo
from fmicl_lightning.moco_v3 import MoCoV3
from fmicl_lightning.optimizers import LARS
from fmicl_lightning.simclr import SimCLR
from fmicl_lightning.trainer import MethodTrainer
from fmicl_lightning.vit import ViT

__all__ = [
    "LARS",
    "MethodTrainer",
    "MoCo",
    "MoCoV3",
    "SimCLR",
    "ViT",
    "build_augmentation",
    "build_encoder",
    "build_loss",
    "build_method",
    "features",
    "load_encoder",
]


def __dir__() -> list[str]:
    return __all__
