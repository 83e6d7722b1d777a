"""The loss that settings name, from the package of any framework."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from fmicl_core.objective import DEFAULTS
from fmicl_core.ranks import features_are_gathered
from fmicl_recipes.settings import TrainSettings


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
    if settings.loss == "info-nce":
        options = {"temperature": settings.temperature, "negatives": settings.negatives}
        return partial(library.info_nce_loss, **options)
    features_are_gathered()  # from all devices, by every trainer, for the losses below
    if settings.loss == "alignment-uniformity":
        return library.alignment_uniformity_loss
    return library.spectral_contrastive_loss
