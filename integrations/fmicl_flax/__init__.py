"""Contrastive trainers in Flax NNX, with Optax and Orbax."""

from fmicl_flax.augment import build_augmentation
from fmicl_flax.build import build_loss, build_method
from fmicl_flax.encoders import build_encoder
from fmicl_flax.loading import features, load_encoder
from fmicl_flax.moco import MoCo
from fmicl_flax.moco_v3 import MoCoV3
from fmicl_flax.simclr import SimCLR
from fmicl_flax.trainer import MethodTrainer

__all__ = [
    "MethodTrainer",
    "MoCo",
    "MoCoV3",
    "SimCLR",
    "build_augmentation",
    "build_encoder",
    "build_loss",
    "build_method",
    "features",
    "load_encoder",
]


def __dir__() -> list[str]:
    return __all__
