"""The dense float64 NumPy loss and its closed-form gradient: the truth of every test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import check_features, check_ids, no_negatives, no_positives
from fmicl_core.objective import FMICL
from fmicl_core.pairs import Block, Pairs, pairs_of
from fmicl_core.renamed import with_old_names

Matrix = NDArray[np.float64]
Ids = NDArray[Any]
#: Value of every pair and its slope in z; no slope where there is no gradient to be taken.
ValueAndSlope = Callable[[FMICL, Matrix], tuple[Matrix, Matrix | None]]
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
        grad_y: (N, D) gradient of the loss, or None without y.
        grad_bank: (K, D) gradient of the loss, or None without a bank.
        grad_scale: derivative of the loss in the factor a of x . y, which is `logit_scale`.
        grad_bias: derivative of the loss in the constant c, which is `logit_bias`.
        alpha: weight of the penalty; with "auto" that of this batch, a constant to the gradient.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import FMICL, fmicl_reference
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = np.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> found = fmicl_reference(x, y, FMICL("js"))
        >>> found.loss == -found.score + found.alpha * found.penalty
        True
        >>> fmicl_reference(x - 0.01 * found.grad_x, y, FMICL("js")).loss < found.loss
        True
    """

    loss: float
    score: float
    penalty: float
    grad_x: Matrix
    grad_y: Matrix | None
    grad_bank: Matrix | None
    grad_scale: float
    grad_bias: float
    alpha: float


def fmicl_reference(
    x: Any,
    y: Any = None,
    objective: FMICL = DEFAULT_OBJECTIVE,
    bank: Any = None,
    ids: Any = None,
    bank_ids: Any = None,
) -> Reference:
    """f-MICL loss and gradient, written for reading.

    loss = - mean over anchors of the mean over their positives of s
           + alpha * mean over negative pairs of f*(s)

    (the objective of Lu et al. 2023). Without ids the one positive of x_i is y_i; with ids it is
    every row with the id of x_i, see `fmicl_core.pairs`. An anchor without a positive counts as one
    whose score is 0. Negative pairs are those of `objective.negatives`, or (x_i, bank_k), of rows
    with different ids.

    Args:
        x: (N, D) features of the first view, or of all views in a single array.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            ids say which rows of x belong together.
        objective: settings of the loss; by default those of every loss here.
        bank: (K, D) features that supply all negatives, or None.
        ids: (N,) whole numbers of the rows of x, and of y; None: all are different.
        bank_ids: (K,) whole numbers of the bank's rows; None: none is among `ids`.

    Dtypes:
        Features of any float dtype; all is computed and returned in float64.

    Derivatives:
        The gradient is part of what is returned, in closed form; alpha="auto" is a constant to it.

    Raises:
        ValueError: shapes do not fit, or there is no positive or no negative pair.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import fmicl_reference
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = np.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(fmicl_reference(x, y).loss, 4)
        3.2531
        >>> score = 1 - ((x - y) ** 2).sum(axis=1).mean()  # KL: 1 + log G, G = exp(-|x - y|^2)
        >>> G = np.exp(-((x[:, None] - x) ** 2).sum(axis=2))  # KL: the penalty
        >>> round(float(-score + 40 * G[~np.eye(4, dtype=bool)].mean()), 4)
        3.2531
    """
    pairs = pairs_of(objective.negatives, objective.positives, y, bank, ids, bank_ids)
    raw = checked_arrays(x, y, bank, ids is not None)
    rows = {name: value.astype(np.float64) for name, value in raw.items()}
    if objective.normalize:
        rows = {name: normalize_rows(value) for name, value in rows.items()}
    grads = {name: np.zeros_like(value) for name, value in rows.items()}
    grads |= {name: np.zeros(()) for name in ("scale", "bias")}

    same = equal_ids(rows, ids, bank_ids)
    alpha = _alpha(rows, objective, pairs, same)
    score = _positives(rows, grads, objective, pairs, same["x", "x"])
    penalty = _negatives(rows, grads, objective, pairs, same, _penalty, alpha)
    if objective.normalize:
        grads |= {k: _through_normalize(v.astype(np.float64), grads[k]) for k, v in raw.items()}
    loss = -score + alpha * penalty
    sides = grads["x"], grads.get("y"), grads.get("bank")
    scalars = float(grads["scale"]), float(grads["bias"])
    return Reference(loss, score, penalty, *sides, *scalars, alpha)


def checked_arrays(
    x: Any, y: Any, bank: Any, has_ids: bool | None = None
) -> dict[str, NDArray[Any]]:
    """The features that were given, as arrays by their names; `has_ids` as for `check_features`.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    raw = {"x": np.asarray(x)}
    raw |= {k: np.asarray(v) for k, v in (("y", y), ("bank", bank)) if v is not None}
    shapes = {name: value.shape for name, value in raw.items()}
    dtypes = [value.dtype.name for value in raw.values()]
    check_features(shapes["x"], shapes.get("y"), shapes.get("bank"), dtypes, has_ids=has_ids)
    return raw


def equal_ids(rows: dict[str, Matrix], ids: Any, bank_ids: Any) -> dict[tuple[str, str], Ids]:
    """Which rows of two arrays have equal ids, as (N, K) booleans by the names of the arrays.

    Raises:
        ValueError: ids are no whole numbers, or not one a row.
    """
    n, k = len(rows["x"]), len(rows.get("bank", ()))
    own = np.arange(n) if ids is None else np.asarray(ids)
    check_ids("ids", own.shape, own.dtype.name, n)
    same = own[:, None] == own[None, :]
    found = {(left, right): same for left in ("x", "y") for right in ("x", "y")}
    if k and bank_ids is None:
        found["x", "bank"] = np.zeros((n, k), bool)
    elif k:
        others = np.asarray(bank_ids)
        check_ids("bank_ids", others.shape, others.dtype.name, k)
        found["x", "bank"] = own[:, None] == others[None, :]
    return found


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


def _positives(
    rows: dict[str, Matrix], grads: dict[str, Matrix], objective: FMICL, pairs: Pairs, same: Ids
) -> float:
    """Mean score of the positive pairs; takes its gradient from `grads`."""
    n, twins = len(rows["x"]), np.eye(len(rows["x"]), dtype=bool)
    shared_by = pairs.positives_of(same.sum(axis=1))
    if not shared_by.any():
        raise no_positives(n)
    weight = np.divide(1.0, n * shared_by, out=np.zeros(n), where=shared_by > 0)
    blocks, positive = pairs.positive_blocks, same
    if pairs.positives == "pair":
        blocks, positive = (Block("x", "y", 1.0),), twins
    total = 0.0
    for block in blocks:
        # A row is no positive of itself.
        counts = weight[:, None] * (positive & ~twins if block.symmetric else positive)
        total += _add_block(rows, grads, objective, block, block.share * counts, _score, -1.0)
    return total


def _negatives(
    rows: dict[str, Matrix],
    grads: dict[str, Matrix],
    objective: FMICL,
    pairs: Pairs,
    same: dict[tuple[str, str], Ids],
    value_and_slope: ValueAndSlope,
    alpha: float = 1.0,
) -> float:
    """Mean over the negative pairs; adds alpha times its gradient, where there is one."""
    total = 0.0
    for block in pairs.negative_blocks:
        counts = (~same[block.left, block.right]).astype(np.float64)
        if not counts.any():
            raise no_negatives(counts.shape[1], pairs.has_bank)
        counts *= block.share / counts.sum()
        total += _add_block(rows, grads, objective, block, counts, value_and_slope, alpha)
    return total


def _alpha(
    rows: dict[str, Matrix], objective: FMICL, pairs: Pairs, same: dict[tuple[str, str], Ids]
) -> float:
    """The weight of the penalty; of "auto" strength / mean of u over the negative pairs."""
    if objective.strength is None:
        return float(objective.alpha)
    return objective.strength / _negatives(rows, {}, objective, pairs, same, _ratio)


def _score(objective: FMICL, z: Matrix) -> tuple[Matrix, Matrix]:
    """Score of every positive pair and its slope in z."""
    return objective.positive(z), objective.pairwise.positive_slope(z)


def _penalty(objective: FMICL, z: Matrix) -> tuple[Matrix, Matrix]:
    """Penalty of every negative pair and its slope in z."""
    return objective.negative(z), objective.pairwise.excess_and_slope(z)[1]


def _ratio(objective: FMICL, z: Matrix) -> tuple[Matrix, None]:
    """The ratio u of every negative pair, of which no gradient is taken."""
    return objective.pairwise.ratio.negative(z), None


def _add_block(
    rows: dict[str, Matrix],
    grads: dict[str, Matrix],
    objective: FMICL,
    block: Block,
    counts: Matrix,
    value_and_slope: ValueAndSlope,
    factor: float,
) -> float:
    """Sum of the values of a block's pairs, each `counts` times.

    Adds its gradient by a factor, where there is one.
    """
    left, right = rows[block.left], rows[block.right]
    a, b, c = objective.coefficients()
    lengths = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    inner = left @ right.T
    z = a * inner + b * lengths + c
    some = counts != 0  # of other pairs a value may be infinite
    value, slope = value_and_slope(objective, z[some])
    total = float((counts[some] * value).sum())
    if slope is None:
        return total
    weight = np.zeros_like(counts)
    weight[some] = factor * counts[some] * slope
    grads["scale"] += (weight * inner).sum()
    grads["bias"] += weight.sum()
    grads[block.left] += a * weight @ right + 2 * b * weight.sum(axis=1)[:, None] * left
    grads[block.right] += a * weight.T @ left + 2 * b * weight.sum(axis=0)[:, None] * right
    return total
