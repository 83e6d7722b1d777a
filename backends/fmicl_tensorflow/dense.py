"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import FMICL
from fmicl_tensorflow.ops import TENSORFLOW, off_diagonal, square_lengths

Rows = dict[str, tf.Tensor]


def positive_scores(rows: Rows, objective: FMICL) -> tf.Tensor:
    """Scores of the pairs (x_i, y_i), whose mean is the alignment; (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = objective.coefficients()
    z = a * tf.reduce_sum(x * y, axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return objective.positive(z, TENSORFLOW)


def dense_uniformity(rows: Rows, objective: FMICL) -> tf.Tensor:
    """Uniformity: mean penalty of the negative pairs; scalar.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        objective: the settings; its normalization has been applied.
    """
    total = tf.zeros((), rows["x"].dtype)
    for block in objective.blocks("bank" in rows):
        right = None if block.symmetric else rows[block.right]
        mean = dense_block_mean(rows[block.left], right, objective, block.skips_diagonal)
        total = total + block.share * mean
    return total


def dense_block_mean(
    left: tf.Tensor, right: tf.Tensor | None, objective: FMICL, skips_diagonal: bool
) -> tf.Tensor:
    """Mean penalty over the pairs (left_i, right_j), i != j if so asked; right None means left.

    Without a pair, as a replica with a single row may be, 0.
    """
    a, b, c = objective.coefficients()
    right = left if right is None else right
    z = a * tf.matmul(left, right, transpose_b=True) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    penalties = objective.negative(off_diagonal(z) if skips_diagonal else z, TENSORFLOW)
    pairs = tf.cast(tf.maximum(tf.size(penalties), 1), penalties.dtype)
    return tf.reduce_sum(penalties) / pairs
