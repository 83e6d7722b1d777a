"""f-MICL for Keras: loss, metrics, a two-view model and trainers; on every backend."""

from fmicl_keras.augment import build_augmentation
from fmicl_keras.build import build_loss, build_method
from fmicl_keras.encoders import build_encoder
from fmicl_keras.geometry import RandomAffine
from fmicl_keras.loading import features, load_encoder
from fmicl_keras.loss import FMICLLoss, InfoNCELoss
from fmicl_keras.metrics import (
    Alignment,
    ContrastiveAccuracy,
    FMICLAlignment,
    FMICLPenalty,
    FMICLScore,
    FMICLUniformity,
    Uniformity,
)
from fmicl_keras.moco import MoCo
from fmicl_keras.moco_v3 import MoCoV3
from fmicl_keras.simclr import SimCLR, projection_head
from fmicl_keras.towers import CLIPLoss, SigLIPLoss
from fmicl_keras.trainer import MethodTrainer
from fmicl_keras.two_views import TwoViews

__all__ = [
    "Alignment",
    "CLIPLoss",
    "ContrastiveAccuracy",
    "FMICLAlignment",
    "FMICLLoss",
    "FMICLPenalty",
    "FMICLScore",
    "FMICLUniformity",
    "InfoNCELoss",
    "MethodTrainer",
    "MoCo",
    "MoCoV3",
    "RandomAffine",
    "SigLIPLoss",
    "SimCLR",
    "TwoViews",
    "Uniformity",
    "build_augmentation",
    "build_encoder",
    "build_loss",
    "build_method",
    "features",
    "load_encoder",
    "projection_head",
]


def __dir__() -> list[str]:
    return __all__
