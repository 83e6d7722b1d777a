"""The dense float64 NumPy loss and its closed-form gradient: the truth of every test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import check_features, no_negatives
from fmicl_core.objective import FMICL, NO_SAMPLE, negative_pairs
from fmicl_core.renamed import with_old_names

Matrix = NDArray[np.float64]
DEFAULT_OBJECTIVE = FMICL()


@with_old_names(alignment="score", uniformity="penalty")
@dataclass(frozen=True)
class Reference:
    """The loss, its two terms and its gradient, all float64.

    Args:
        loss: value of the loss, -score + alpha * penalty.
        score: mean score of the positive pairs.
        penalty: mean penalty of the negative pairs.
        grad_x: (N, D) gradient of the loss.
        grad_y: (N, D) gradient of the loss.
        grad_bank: (K, D) gradient of the loss, or None without a bank.
    """

    loss: float
    score: float
    penalty: float
    grad_x: Matrix
    grad_y: Matrix
    grad_bank: Matrix | None


def fmicl_reference(
    x: Any,
    y: Any = None,
    objective: FMICL = DEFAULT_OBJECTIVE,
    bank: Any = None,
    samples: Any = None,
    bank_samples: Any = None,
) -> Reference:
    """f-MICL loss and gradient, written for reading.

    loss = - 1/N sum_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s)
    (the objective of Lu et al. 2023; negative pairs by `objective.negatives`, or (x_i, bank_k)).

    Args:
        x: (N, D) features of the first view.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = np.split(features, 2)`.
        objective: settings of the loss; by default those of every loss here.
        bank: (K, D) features that supply all negatives, or None.
        samples: (N,) whole numbers; rows with equal numbers are one sample and not negatives of
            each other. None: every row is a sample of its own.
        bank_samples: (K,) whole numbers that say the same of the bank's rows. None: no row of the
            bank is of a sample in the batch.

    Raises:
        ValueError: shapes do not fit, or there is no negative pair.
    """
    raw = checked_arrays(x, y, bank)
    rows = {name: value.astype(np.float64) for name, value in raw.items()}
    if objective.normalize:
        rows = {name: normalize_rows(value) for name, value in rows.items()}
    grads = {name: np.zeros_like(value) for name, value in rows.items()}

    score = _positives(rows, grads, objective)
    own = np.arange(len(rows["x"])) if samples is None else np.asarray(samples)
    numbers = {"x": own, "y": own}
    if bank is not None:
        none = np.full(len(rows["bank"]), NO_SAMPLE)
        numbers["bank"] = none if bank_samples is None else np.asarray(bank_samples)
    penalty = _negatives(rows, grads, objective, numbers)
    if objective.normalize:
        grads = {k: _through_normalize(raw[k].astype(np.float64), g) for k, g in grads.items()}
    loss = -score + objective.alpha * penalty
    return Reference(loss, score, penalty, grads["x"], grads["y"], grads.get("bank"))


def checked_arrays(x: Any, y: Any, bank: Any) -> dict[str, NDArray[Any]]:
    """The features that were given, as arrays by their names.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    raw = {"x": np.asarray(x)}
    raw |= {k: np.asarray(v) for k, v in (("y", y), ("bank", bank)) if v is not None}
    shapes = {name: value.shape for name, value in raw.items()}
    dtypes = [value.dtype.name for value in raw.values()]
    check_features(shapes["x"], shapes.get("y"), shapes.get("bank"), dtypes)
    return raw


def normalize_rows(x: Matrix) -> Matrix:
    """Rows scaled to unit length, x / |x|; (N, D) to (N, D). A zero row stays zero.

    The largest entry is divided out first, so that no finite row overflows or underflows.
    """
    unit: Matrix = x / _norms(x)
    return unit


def _norms(x: Matrix) -> Matrix:
    largest = np.abs(x).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    length = scale * np.sqrt(((x / scale) ** 2).sum(axis=1, keepdims=True))
    norms: Matrix = np.where(largest > 0, length, 1.0)
    return norms


def _through_normalize(x: Matrix, grad: Matrix) -> Matrix:
    unit = normalize_rows(x)
    tangent: Matrix = grad - unit * (unit * grad).sum(axis=1, keepdims=True)
    return tangent / _norms(x)


def _affine(objective: FMICL, left: Matrix, right: Matrix, products: Matrix) -> Matrix:
    a, b, c = objective.coefficients()
    lengths = (left**2).sum(axis=1), (right**2).sum(axis=1)
    pairwise = products.ndim == 2
    squares = lengths[0][:, None] + lengths[1][None, :] if pairwise else lengths[0] + lengths[1]
    z: Matrix = a * products + b * squares + c
    return z


def _positives(rows: dict[str, Matrix], grads: dict[str, Matrix], objective: FMICL) -> float:
    x, y = rows["x"], rows["y"]
    a, b, _ = objective.coefficients()
    z = _affine(objective, x, y, (x * y).sum(axis=1))
    weight = (-objective.pairwise.positive_slope(z) / len(x))[:, None]
    grads["x"] += weight * (a * y + 2 * b * x)
    grads["y"] += weight * (a * x + 2 * b * y)
    return float(objective.positive(z).mean())


def _negatives(
    rows: dict[str, Matrix],
    grads: dict[str, Matrix],
    objective: FMICL,
    numbers: dict[str, NDArray[np.int64]],
) -> float:
    pairwise = objective.pairwise
    a, b, _ = pairwise.coefficients()
    total = 0.0
    for block in objective.blocks("bank" in rows):
        left, right = rows[block.left], rows[block.right]
        z = _affine(objective, left, right, left @ right.T)
        counts = negative_pairs(numbers[block.left], numbers[block.right]).astype(np.float64)
        if not counts.any():
            raise no_negatives(len(rows["x"]))
        counts *= block.share / counts.sum()
        penalty, (_, slope) = pairwise.negative(z), pairwise.excess_and_slope(z)
        total += float((counts * penalty).sum())
        weight = objective.alpha * counts * slope
        grads[block.left] += a * weight @ right + 2 * b * weight.sum(axis=1)[:, None] * left
        grads[block.right] += a * weight.T @ left + 2 * b * weight.sum(axis=0)[:, None] * right
    return total
