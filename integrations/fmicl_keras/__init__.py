"""f-MICL for Keras: a loss for `model.compile`, metrics, and a two-view model; on every backend."""

from fmicl_keras.loss import FMICLLoss, InfoNCELoss
from fmicl_keras.metrics import Alignment, FMICLAlignment, FMICLUniformity, Uniformity
from fmicl_keras.views import TwoViews, projection_head

__all__ = [
    "Alignment",
    "FMICLAlignment",
    "FMICLLoss",
    "FMICLUniformity",
    "InfoNCELoss",
    "TwoViews",
    "Uniformity",
    "projection_head",
]
