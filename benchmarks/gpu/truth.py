"""The float64 truth of a check: values by the references of `fmicl_core`, gradients beside them.

The core has the gradients of f-MICL. Those of SigLIP, CLIP and InfoNCE stand here, by the weight
dL/ds of every pair, with s the logits; tests hold them against differences of the references.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.cases import Check, ids_of, is_single, scalars_of
from fmicl_core import fmicl_reference
from fmicl_core.family import clip_reference, siglip_reference
from fmicl_core.pairs import pairs_of
from fmicl_core.reference import normalize_rows
from fmicl_core.related import info_nce_anchors, info_nce_reference

Arrays = dict[str, np.ndarray]


class Truth(NamedTuple):
    """A loss in float64.

    Args:
        loss: value of the loss.
        size: number that an error of the loss is compared with.
        gradients: gradients in x, and in y and the bank where there are any.
        slopes: derivatives in the scale, and in the bias of losses that have one.
    """

    loss: float
    size: float
    gradients: tuple[np.ndarray, ...]
    slopes: tuple[float, ...]


def truth_of(case: Check, features: tuple[np.ndarray, ...]) -> Truth:
    """The truth of a case, of the features as the loss saw them."""
    names = ["x"] + ["y"] * (not is_single(case)) + ["bank"] * case.bank
    arrays = dict(zip(names, features, strict=True))
    if case.loss == "siglip":
        return _siglip(arrays, ids_of(case).get("ids"), **scalars_of(case))
    if case.loss in ("clip", "info_nce"):
        return _softmaxes(arrays, case, **scalars_of(case))
    objective = case.objective()
    found = fmicl_reference(objective=objective, **arrays, **ids_of(case))
    size = abs(found.score) + found.alpha * abs(found.penalty)
    sides = tuple(v for v in (found.grad_x, found.grad_y, found.grad_bank) if v is not None)
    return Truth(found.loss, size, sides, (found.grad_scale, found.grad_bias))


def _siglip(arrays: Arrays, ids: Any, logit_scale: float, logit_bias: float) -> Truth:
    """SigLIP, in which every pair of equal ids is positive."""
    x, y = (normalize_rows(arrays[name]) for name in ("x", "y"))
    own = np.arange(len(x)) if ids is None else ids
    inner = x @ y.T
    probability = 1.0 / (1.0 + np.exp(-logit_scale * inner - logit_bias))
    weight = (probability - (own[:, None] == own[None, :])) / len(x)
    sides = {"x": logit_scale * weight @ y, "y": logit_scale * weight.T @ x}
    loss = siglip_reference(arrays["x"], arrays["y"], logit_scale, logit_bias, ids)
    slopes = float((weight * inner).sum()), float(weight.sum())
    return Truth(loss, abs(loss), _through_normalize(arrays, sides), slopes)


def _softmaxes(arrays: Arrays, case: Check, logit_scale: float) -> Truth:
    """InfoNCE without ids, and CLIP, which is InfoNCE in both directions."""
    given: dict[str, Any] = {"logit_scale": logit_scale, **arrays}
    if case.loss == "clip":
        loss = clip_reference(**given)
    else:
        loss = info_nce_reference(negatives=case.negatives, **given)
    y, bank = arrays.get("y"), arrays.get("bank")
    pairs = pairs_of(case.negatives, "ids", y, bank, None, None, symmetric=case.loss == "clip")
    unit = {name: normalize_rows(v) for name, v in arrays.items()}
    sides, slope = {name: np.zeros_like(v) for name, v in unit.items()}, 0.0
    anchors = info_nce_anchors(pairs)
    for anchor, pools in anchors:
        twin = "y" if anchor == "x" else "x"
        views = sorted({*pools, twin})
        inner = {v: unit[anchor] @ unit[v].T for v in views}
        exps = {v: np.exp(logit_scale * (inner[v] - 1.0)) for v in views}
        eye = np.eye(len(unit["x"]))
        if anchor in pools:
            exps[anchor] = exps[anchor] * (1.0 - eye)
        if twin not in pools:  # its other rows are no negatives
            exps[twin] = exps[twin] * eye
        total = sum(v.sum(axis=1) for v in exps.values())[:, None]
        for v in views:
            weight = (exps[v] / total - (eye if v == twin else 0.0)) / (len(eye) * len(anchors))
            sides[anchor] += logit_scale * weight @ unit[v]
            sides[v] += logit_scale * weight.T @ unit[anchor]
            slope += float((weight * inner[v]).sum())
    return Truth(loss, abs(loss), _through_normalize(arrays, sides), (slope,))


def _through_normalize(arrays: Arrays, sides: Arrays) -> tuple[np.ndarray, ...]:
    """The gradients in the given rows, of those in the rows of unit length."""
    gradients = []
    for name, rows in arrays.items():
        unit, side = normalize_rows(rows), sides[name]
        tangent = side - unit * (unit * side).sum(axis=1, keepdims=True)
        gradients.append(tangent / np.linalg.norm(rows, axis=1, keepdims=True))
    return tuple(gradients)
