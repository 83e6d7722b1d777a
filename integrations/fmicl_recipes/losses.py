"""The loss that settings name, from the package of any framework."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from fmicl_core.objective import DEFAULTS
from fmicl_core.ranks import features_are_gathered
from fmicl_recipes.settings import TrainSettings

#: Losses that are InfoNCE, with or without positives in its softmax: their functions.
SOFTMAX_LOSSES = {"info-nce": "info_nce_loss", "dcl": "dcl_loss"}


def loss_of(settings: TrainSettings, library: ModuleType) -> Callable[..., Any]:
    """The loss that settings name, as a function of features; the trainer watches for NaN.

    Args:
        settings: settings of the run.
        library: package with the losses: `fmicl_torch`, `fmicl_jax` or `fmicl_tensorflow`.
    """
    if settings.loss == "fmicl":
        objective = settings.objective()
        options = {name: getattr(objective, name) for name in DEFAULTS._fields}
        return partial(library.fmicl_loss, **options, check_finite=False)
    if settings.loss in SOFTMAX_LOSSES:
        options = {"temperature": settings.temperature, "negatives": settings.negatives}
        return partial(getattr(library, SOFTMAX_LOSSES[settings.loss]), **options)
    if settings.loss == "siglip":
        return partial(library.siglip_loss, **siglip_logits(settings), check_finite=False)
    features_are_gathered()  # from all devices, by every trainer, for the losses below
    if settings.loss == "alignment-uniformity":
        return library.alignment_uniformity_loss
    return library.spectral_contrastive_loss


def siglip_logits(settings: TrainSettings) -> dict[str, float]:
    """The logits of SigLIP, whose scale and bias stay: 1 / temperature and `logit_bias`.

    Without a bias it is -log(N - 1), N = `batch_size`. The weight of a negative pair at right
    angles is then sigmoid(bias) = 1 / N, and that of the positive pair 1 - 1 / N: the N - 1
    negatives of an anchor together weigh as much as its positive. SigLIP begins at -10, so for a
    batch of 22,000.

    Neither is learned. Zhai et al. (2023) learn both, at the small rates that Adam needs; at an
    encoder's rate of SGD, 0.1 and more, the scale, whose gradient is that of all pairs together,
    would run away within a few steps.
    """
    bias = settings.logit_bias
    bias = -math.log(settings.batch_size - 1) if bias is None else bias
    return {"logit_scale": 1.0 / settings.temperature, "logit_bias": bias}
