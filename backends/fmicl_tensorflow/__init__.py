"""f-MICL and the losses it generalises, for TensorFlow."""

from fmicl_core import specification
from fmicl_core.specification import *  # noqa: F403
from fmicl_tensorflow.family import kcl_loss, siglip_loss
from fmicl_tensorflow.gradients import LossAndGradients, loss_and_gradients
from fmicl_tensorflow.loss import FMICLLoss, fmicl_loss, fmicl_terms
from fmicl_tensorflow.related import (
    InfoNCELoss,
    alignment_uniformity_loss,
    info_nce_loss,
    spectral_contrastive_loss,
)
from fmicl_tensorflow.softmax_family import clip_loss, dcl_loss, dhel_loss
from fmicl_tensorflow.terms import FMICLTerms

__all__ = [
    "FMICLLoss",
    "FMICLTerms",
    "InfoNCELoss",
    "LossAndGradients",
    "alignment_uniformity_loss",
    "clip_loss",
    "dcl_loss",
    "dhel_loss",
    "fmicl_loss",
    "fmicl_terms",
    "info_nce_loss",
    "kcl_loss",
    "loss_and_gradients",
    "siglip_loss",
    "spectral_contrastive_loss",
]
__all__ += specification.__all__


def __dir__() -> list[str]:
    return __all__
