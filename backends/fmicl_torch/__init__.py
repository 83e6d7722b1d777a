"""f-MICL and the losses it generalises, for PyTorch."""

from fmicl_core import specification
from fmicl_core.specification import *  # noqa: F403
from fmicl_torch.caching import cached_loss
from fmicl_torch.family import kcl_loss, siglip_loss
from fmicl_torch.gradients import LossAndGradients, loss_and_gradients
from fmicl_torch.loss import FMICLLoss, fmicl_loss, fmicl_terms
from fmicl_torch.related import (
    InfoNCELoss,
    alignment_uniformity_loss,
    info_nce_loss,
    spectral_contrastive_loss,
)
from fmicl_torch.softmax_family import clip_loss, dcl_loss, dhel_loss
from fmicl_torch.terms import FMICLTerms
from fmicl_torch.towers import CLIPLoss, SigLIPLoss

__all__ = [
    "CLIPLoss",
    "FMICLLoss",
    "FMICLTerms",
    "InfoNCELoss",
    "LossAndGradients",
    "SigLIPLoss",
    "alignment_uniformity_loss",
    "cached_loss",
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
