"""The losses of single samples, which sample weights need; their mean is the loss of the batch.

The loss of a sample compares its positive with its own negatives, averaged over the views that are
anchors (`fmicl_core.related.ANCHORS`). All pairs are held at once, O(N^2) memory.
"""

from __future__ import annotations

import keras

from fmicl_core import FMICL
from fmicl_core.related import info_nce_anchors
from fmicl_keras.backend import Rows, Tensor, library, ops, product


def fmicl_by_anchor(rows: Rows, objective: FMICL) -> Tensor:
    """-s(x_i, y_i) + alpha * mean of f*(s) over the negatives of sample i; (N,).

    Args:
        rows: features (N, D), normalised where the objective says so, by the names "x" and "y".
        objective: settings of the loss.
    """
    a, b, c = objective.coefficients()
    x, y = rows["x"], rows["y"]
    z = a * keras.ops.sum(x * y, axis=1) + c
    if b:
        z = z + b * (_square_lengths(x) + _square_lengths(y))
    losses = []
    for anchor, pools in info_nce_anchors(objective.negatives, has_bank=False):
        penalties = []
        for pool in pools:
            left, right = rows[anchor], rows[pool]
            pairs = a * product(left, right) + c
            if b:
                lengths = _square_lengths(left)[:, None] + _square_lengths(right)[None, :]
                pairs = pairs + b * lengths
            penalties.append(_row_means(objective.negative(without_diagonal(pairs), ops())))
        losses.append(_average(penalties))
    return objective.alpha * _average(losses) - objective.positive(z, ops())


def info_nce_by_anchor(rows: Rows, temperature: float, negatives: str) -> Tensor:
    """log(e^s+ + sum over the negatives of sample i of e^s-) - s+; (N,).

    Args:
        rows: features (N, D), normalised where asked for, by the names "x" and "y".
        temperature: divisor of the scores s.
        negatives: name of the pairs that are negatives, see `fmicl_core.objective.NEGATIVES`.
    """
    positive = keras.ops.sum(rows["x"] * rows["y"], axis=1) / temperature
    losses = []
    for anchor, pools in info_nce_anchors(negatives, has_bank=False):
        scores = [product(rows[anchor], rows[pool]) / temperature for pool in pools]
        logits = [positive[:, None], *(without_diagonal(s) for s in scores)]
        every = keras.ops.concatenate(logits, axis=1)
        losses.append(keras.ops.logsumexp(every, axis=1) - positive)
    return _average(losses)


def _average(losses: list[Tensor]) -> Tensor:
    return sum(losses[1:], losses[0]) / len(losses)


def _row_means(x: Tensor) -> Tensor:
    # `keras.ops.mean` would round float64 to float32.
    total = keras.ops.sum(x, axis=1)
    return total / keras.ops.cast(keras.ops.shape(x)[1], x.dtype)


def _square_lengths(x: Tensor) -> Tensor:
    return keras.ops.sum(x * x, axis=1)


def without_diagonal(square: Tensor) -> Tensor:
    """A square matrix without its diagonal, (N, N) to (N, N - 1): the negatives of every row."""
    n = keras.ops.shape(square)[0]
    return keras.ops.reshape(library("ops").off_diagonal(square), (n, n - 1))
