"""The losses of single samples, which sample weights need; their mean is the loss of the batch.

The loss of a sample compares its positives with its negatives, averaged over the views that are
anchors (`fmicl_core.related.ANCHORS`). All pairs are held at once, O(N^2) memory.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from fmicl_core import FMICL, Pairwise
from fmicl_core.pairs import Pairs, pairs_of
from fmicl_core.related import info_nce_anchors, info_nce_positives
from fmicl_keras.backend import Rows, Tensor, library, mean, ops, product


class EqualIds:
    """Which rows have equal ids, and what that makes of them.

    Args:
        pairs: pairs that count.
        x: features (N, D) of the rows, whose dtype counts have.
        ids: (N,) whole numbers of the rows; None: all are different.
    """

    def __init__(self, pairs: Pairs, x: Tensor, ids: Tensor | None) -> None:
        same = keras.ops.ones_like(x[:, 0])
        #: Pairs of equal ids without the diagonal, (N, N - 1); None if there are none.
        self.mask = None if ids is None else without_diagonal(ids[:, None] == ids[None, :])
        if self.mask is not None:
            same = same + keras.ops.sum(keras.ops.cast(self.mask, x.dtype), axis=1)
        positives = pairs.positives_of(same)
        self.has_positive = positives > 0
        #: What each positive of a row counts, (N,).
        self.share = _where(self.has_positive, 1.0 / _where(self.has_positive, positives, 1.0), 0.0)
        rows = keras.ops.cast(keras.ops.shape(x)[0], x.dtype)
        #: The mean share of a row's pairs that are negative, scalar.
        self.negatives = mean(pairs.negatives_of(same, rows), 0)


def fmicl_by_anchor(rows: Rows, objective: FMICL, ids: Tensor | None = None) -> Tensor:
    """-mean of s over the positives of row i + alpha * mean of f*(s) over its negatives; (N,).

    Where rows have unequal numbers of negatives, the second mean is the sum over the negatives of
    row i divided by the mean of these numbers: every negative pair of the batch has one weight.
    alpha = "auto" is strength / mean of u over all negative pairs, a constant to the gradient.

    Args:
        rows: features (N, D), normalised where the objective says so, by the names "x" and "y", or
            "x" alone for a single array.
        objective: settings of the loss.
        ids: (N,) whole numbers of the rows; None: all are different.
    """
    pairs = pairs_of(objective.negatives, objective.positives, rows.get("y"), None, ids, None)
    equal, apart = EqualIds(pairs, rows["x"], ids), objective.pairwise.coincident
    of_ratio = None if objective.strength is None else objective.pairwise.ratio
    scores, penalties, ratios = [], [], []
    for anchor, pools in info_nce_anchors(pairs):
        views = _positives(pairs, anchor, ids)
        needed = dict.fromkeys((*pools, *views))
        z = {v: without_diagonal(_z(objective, rows[anchor], rows[v])) for v in needed}
        # `apart` stands for pairs that do not count, where no derivative is NaN.
        pairs_of_pools = [_where(equal.mask, apart, z[p]) for p in pools]
        penalties.append(_over_negatives(objective.pairwise, pairs_of_pools, equal))
        if of_ratio is not None:
            ratios.append(_over_negatives(of_ratio, pairs_of_pools, equal))
        found = [objective.positive(_where(equal.mask, z[v], apart), ops()) for v in views]
        scores.append(sum(keras.ops.sum(_where(equal.mask, f, 0.0), axis=1) for f in found))
    score = _average(scores)
    if "y" in rows:
        score = score + objective.positive(_z_of_twins(objective, rows), ops())
    alpha: Any = objective.alpha
    if of_ratio is not None:
        u = mean(_average(ratios), 0) / equal.negatives
        alpha = objective.strength / keras.ops.stop_gradient(u)
    return alpha * _average(penalties) / equal.negatives - equal.share * score


def _over_negatives(of: Pairwise, z: list[Tensor], equal: EqualIds) -> Tensor:
    """Sum over the negatives of every anchor of their penalty, divided by the rows of z; (N,)."""
    found = [of.negative(numbers, ops()) for numbers in z]
    return _average([mean(_where(equal.mask, 0.0, f), 1) for f in found])


def info_nce_by_anchor(
    rows: Rows, temperature: float, negatives: str, positives: str, ids: Tensor | None = None
) -> Tensor:
    """-mean of s over the positives of row i + log Z; (N,). Rows without a positive have 0.

    Z is the sum of e^s over the positives and the negatives of row i.

    Args:
        rows: features (N, D), normalised where asked for, by the names "x" and "y", or "x" alone
            for a single array.
        temperature: divisor of the scores s.
        negatives: name of the scheme of negatives, see `fmicl_core.pairs.NEGATIVES`.
        positives: name of the pairs with equal ids that are positive, see
            `fmicl_core.pairs.POSITIVES`.
        ids: (N,) whole numbers of the rows; None: all are different.
    """
    pairs = pairs_of(negatives, positives, rows.get("y"), None, ids, None)
    equal = EqualIds(pairs, rows["x"], ids)
    twins = [keras.ops.sum(rows["x"] * rows["y"], axis=1) / temperature] if "y" in rows else []
    losses = []
    for anchor, pools in info_nce_anchors(pairs):
        views = _positives(pairs, anchor, ids)
        logits, score = [t[:, None] for t in twins], sum(twins)
        for view in dict.fromkeys((*pools, *views)):
            s = without_diagonal(product(rows[anchor], rows[view]) / temperature)
            if view not in views:
                logits.append(_where(equal.mask, -math.inf, s))
                continue
            logits.append(s if view in pools else _where(equal.mask, s, -math.inf))
            score = score + keras.ops.sum(_where(equal.mask, s, 0.0), axis=1)
        log_z = keras.ops.logsumexp(keras.ops.concatenate(logits, axis=1), axis=1)
        losses.append(log_z - equal.share * score)
    loss = _average(losses)
    return loss if twins else _where(equal.has_positive, loss, 0.0)


def _positives(pairs: Pairs, anchor: str, ids: Tensor | None) -> tuple[str, ...]:
    """The arrays whose rows with the anchor's id are positives, beside the pairs (x_i, y_i)."""
    return () if ids is None else info_nce_positives(pairs)[anchor]


def _where(mask: Tensor | None, value: Tensor | float, other: Tensor | float) -> Tensor:
    """`value` where the mask holds, elsewhere `other`; without a mask `other`."""
    if mask is None:
        return other
    dtype = getattr(value, "dtype", None) or getattr(other, "dtype", None)
    return keras.ops.where(mask, *(keras.ops.convert_to_tensor(v, dtype) for v in (value, other)))


def _z(objective: FMICL, left: Tensor, right: Tensor) -> Tensor:
    """The numbers z of all pairs of rows; (N, N)."""
    a, b, c = objective.coefficients()
    z = a * product(left, right) + c
    if b:
        z = z + b * (_square_lengths(left)[:, None] + _square_lengths(right)[None, :])
    return z


def _z_of_twins(objective: FMICL, rows: Rows) -> Tensor:
    """The numbers z of the pairs (x_i, y_i); (N,)."""
    a, b, c = objective.coefficients()
    x, y = rows["x"], rows["y"]
    z = a * keras.ops.sum(x * y, axis=1) + c
    if b:
        z = z + b * (_square_lengths(x) + _square_lengths(y))
    return z


def _average(losses: list[Tensor]) -> Tensor:
    return sum(losses[1:], losses[0]) / len(losses)


def _square_lengths(x: Tensor) -> Tensor:
    return keras.ops.sum(x * x, axis=1)


def without_diagonal(square: Tensor) -> Tensor:
    """A square matrix without its diagonal, (N, N) to (N, N - 1): the others of every row."""
    n = keras.ops.shape(square)[0]
    return keras.ops.reshape(library("ops").off_diagonal(square), (n, n - 1))
