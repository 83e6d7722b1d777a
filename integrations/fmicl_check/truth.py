"""The right values of a case: the float64 reference, and gradients that no framework computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmicl_check.base import Array
from fmicl_core import FMICL, fmicl_reference
from fmicl_core.family import (
    clip_reference,
    dcl_reference,
    dhel_reference,
    kcl_reference,
    siglip_reference,
)
from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import (
    alignment_uniformity_reference,
    info_nce_reference,
    spectral_contrastive_reference,
)

#: The related losses and those with names of their own, and what may supply their negatives (""
#: where there is no choice).
RELATED: dict[str, tuple[str, ...]] = {
    "info_nce_loss": (*NEGATIVES, "bank"),
    "alignment_uniformity_loss": ("",),
    "spectral_contrastive_loss": ("",),
    "siglip_loss": ("",),
    "clip_loss": ("",),
    "dcl_loss": ("all", "cross", "bank"),
    "dhel_loss": ("",),
    "kcl_loss": ("anchor", "within"),
}
REFERENCES: dict[str, Callable[..., float]] = {
    "info_nce_loss": info_nce_reference,
    "alignment_uniformity_loss": alignment_uniformity_reference,
    "spectral_contrastive_loss": spectral_contrastive_reference,
    "siglip_loss": siglip_reference,
    "clip_loss": clip_reference,
    "dcl_loss": dcl_reference,
    "dhel_loss": dhel_reference,
    "kcl_loss": kcl_reference,
}
#: Those of them that have tiles, too, and with scalars that learn, by the values of a case.
TILED = ("info_nce_loss", "siglip_loss", "clip_loss", "dcl_loss", "dhel_loss", "kcl_loss")
LEARNED: dict[str, dict[str, float]] = {
    "info_nce_loss": {"logit_scale": 3.5},
    "siglip_loss": {"logit_scale": 3.5, "logit_bias": -1.25},
    "clip_loss": {"logit_scale": 3.5},
    "dcl_loss": {"logit_scale": 3.5},
    "dhel_loss": {"logit_scale": 3.5},
}
#: Central differences of eighth order, whose error is of the order of STEP^8 and 1e-16 / STEP.
STENCIL = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
STEP = 0.001
#: What `related_truth` found before: cases that differ in form and compilation share it.
_found: dict[object, Truth] = {}


@dataclass(frozen=True)
class Truth:
    """Float64 values of a case.

    Args:
        terms: loss, and for an f-MICL loss score and penalty.
        size: magnitude that errors of the terms are relative to.
        gradients: gradients of the loss by argument.
    """

    terms: tuple[float, ...]
    size: float
    gradients: dict[str, Array]


def fmicl_truth(objective: FMICL, features: dict[str, Array], **ids: Array) -> Truth:
    """Loss, terms and closed-form gradient of the reference at x, and perhaps y and bank."""
    r = fmicl_reference(**features, objective=objective, **ids)
    found = {"x": r.grad_x, "y": r.grad_y, "bank": r.grad_bank}
    if objective.logit_scale is not None:
        found["logit_scale"] = np.array(r.grad_scale)
    if objective.logit_bias is not None:
        found["logit_bias"] = np.array(r.grad_bias)
    gradients = {name: gradient for name, gradient in found.items() if gradient is not None}
    size = abs(r.score) + r.alpha * abs(r.penalty)
    return Truth((r.loss, r.score, r.penalty), size, gradients)


def related_truth(loss: str, negatives: str, features: dict[str, Array], **options: Any) -> Truth:
    """Loss of the reference, and its gradient by central differences, right to about 1e-13.

    Args:
        loss: name of the loss.
        negatives: name of the scheme, "bank", or "".
        features: arrays by argument, and scalars that learn as arrays of no dimension.
        options: other arguments of the reference, such as ids.
    """
    if negatives not in ("", "bank"):
        options["negatives"] = negatives

    def value(arrays: dict[str, Array]) -> float:
        return REFERENCES[loss](**arrays, **options)

    given = {**features, **{k: v for k, v in options.items() if not isinstance(v, str)}}
    key = (
        loss, tuple(sorted((k, v) for k, v in options.items() if isinstance(v, str))),
        tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in sorted(given.items())),
    )  # fmt: skip
    if key not in _found:
        gradients = {name: _differences(value, features, name) for name in features}
        truth = value(features)
        _found[key] = Truth((truth,), abs(truth), gradients)
    return _found[key]


def _differences(
    value: Callable[[dict[str, Array]], float], arrays: dict[str, Array], name: str
) -> Array:
    gradient = np.zeros_like(arrays[name])
    for place in np.ndindex(gradient.shape):
        for steps, weight in STENCIL.items():
            ahead, behind = arrays[name].copy(), arrays[name].copy()
            ahead[place] += steps * STEP
            behind[place] -= steps * STEP
            change = value(arrays | {name: ahead}) - value(arrays | {name: behind})
            gradient[place] += weight * change / STEP
    return gradient
