"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_tensorflow.ops import TENSORFLOW, off_diagonal, square_lengths

Rows = dict[str, tf.Tensor]
#: An array for the rows on the left of a block, and one for those on its right.
Sides = tuple[tf.Tensor, tf.Tensor]


def positive_scores(rows: Rows, pairwise: Pairwise, bias: tf.Tensor | None = None) -> tf.Tensor:
    """Score of every positive pair (x_i, y_i), whose z a learned bias is added to; (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = pairwise.coefficients()
    z = a * tf.reduce_sum(x * y, axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    z = z if bias is None else z + bias
    return pairwise.positive(z, TENSORFLOW)


def dense_block_mean(
    left: tf.Tensor,
    right: tf.Tensor | None,
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    skips_diagonal: bool,
    numbers: Sides | None = None,
) -> tf.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    A learned bias is added to z of every pair. Pairs with equal numbers count as 0. Without a pair,
    as a replica with a single row may be, 0.
    """
    z = _block_z(left, right, pairwise, bias)
    z = off_diagonal(z) if skips_diagonal else z
    if numbers is None:
        excess = pairwise.excess(z, TENSORFLOW)
    else:
        equal = numbers[0][:, None] == numbers[1][None, :]
        equal = off_diagonal(equal) if skips_diagonal else equal
        # First of all z, since an infinite value, though left out, has a derivative of NaN.
        z = tf.where(equal, tf.constant(pairwise.coincident, z.dtype), z)
        excess = tf.where(equal, tf.zeros_like(z), pairwise.excess(z, TENSORFLOW))
    pairs = tf.cast(tf.maximum(tf.size(excess), 1), excess.dtype)
    return tf.reduce_sum(excess) / pairs


def dense_positive_sum(
    left: tf.Tensor,
    right: tf.Tensor | None,
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    skips_diagonal: bool,
    numbers: Sides,
    weights: tf.Tensor,
) -> tf.Tensor:
    """Sum of weights_i times the score over the pairs (left_i, right_j) with equal numbers."""
    z = _block_z(left, right, pairwise, bias)
    positive = numbers[0][:, None] == numbers[1][None, :]
    if skips_diagonal:
        place = tf.range(tf.shape(z)[0])
        positive &= place[:, None] != place[None, :]
    z = tf.where(positive, z, tf.constant(pairwise.coincident, z.dtype))
    score = tf.where(positive, pairwise.positive(z, TENSORFLOW), tf.zeros_like(z))
    return tf.reduce_sum(weights * tf.reduce_sum(score, axis=1))


def _block_z(
    left: tf.Tensor, right: tf.Tensor | None, pairwise: Pairwise, bias: tf.Tensor | None
) -> tf.Tensor:
    """Number z of every pair of a block; right None means left."""
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * tf.matmul(left, right, transpose_b=True) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    return z if bias is None else z + bias
