"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import FMICL
from fmicl_tensorflow.ops import TENSORFLOW, off_diagonal, square_lengths

Rows = dict[str, tf.Tensor]


def positive_term(rows: Rows, objective: FMICL) -> tf.Tensor:
    """Alignment: mean score of the pairs (x_i, y_i); scalar."""
    x, y = rows["x"], rows["y"]
    a, b, c = objective.coefficients()
    z = a * tf.reduce_sum(x * y, axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return tf.reduce_mean(objective.positive(z, TENSORFLOW))


def dense_uniformity(rows: Rows, objective: FMICL) -> tf.Tensor:
    """Uniformity: mean penalty of the negative pairs; scalar.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        objective: the settings; its normalization has been applied.
    """
    a, b, c = objective.coefficients()
    total = tf.zeros((), rows["x"].dtype)
    for block in objective.blocks("bank" in rows):
        left, right = rows[block.left], rows[block.right]
        z = a * tf.matmul(left, right, transpose_b=True) + c
        if b:
            z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
        if block.skips_diagonal:
            z = off_diagonal(z)
        total = total + block.share * tf.reduce_mean(objective.negative(z, TENSORFLOW))
    return total
