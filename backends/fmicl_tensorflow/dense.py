"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_tensorflow.ops import TENSORFLOW, off_diagonal, square_lengths

Rows = dict[str, tf.Tensor]


def positive_scores(rows: Rows, pairwise: Pairwise) -> tf.Tensor:
    """Score of every positive pair (x_i, y_i); (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = pairwise.coefficients()
    z = a * tf.reduce_sum(x * y, axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return pairwise.positive(z, TENSORFLOW)


def dense_block_mean(
    left: tf.Tensor, right: tf.Tensor | None, pairwise: Pairwise, skips_diagonal: bool
) -> tf.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    Without a pair, as a replica with a single row may be, 0.
    """
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * tf.matmul(left, right, transpose_b=True) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    excess = pairwise.excess(off_diagonal(z) if skips_diagonal else z, TENSORFLOW)
    pairs = tf.cast(tf.maximum(tf.size(excess), 1), excess.dtype)
    return tf.reduce_sum(excess) / pairs
