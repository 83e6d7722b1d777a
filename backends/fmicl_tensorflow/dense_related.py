"""InfoNCE with every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.ids import Numbers
from fmicl_tensorflow.ops import TENSORFLOW


def dense_info_nce(
    rows: Rows,
    pairs: Pairs,
    numbers: Numbers | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Mean over the anchors of the log-sum-exp of all in their softmax, less s(x_i, y_i).

    A single array has no s(x_i, y_i), and 0 for an anchor without a positive.

    Args:
        rows: features by the names "x" (N, D) and, if given, "y" (N, D) and "bank" (K, D), whose
            products are the scores.
        pairs: pairs that count.
        numbers: numbers of the rows, or None without ids.
        weights: one over the number of positives of every anchor, or 0; (N,).
    """
    losses = []
    for anchor, _ in info_nce_anchors(pairs):
        logits = _logits(rows, anchor, pairs, numbers)
        every = tf.reduce_logsumexp(tf.concat(logits, axis=1), axis=1)
        if pairs.single and weights is not None:
            losses.append(tf.reduce_mean(tf.where(weights > 0.0, every, tf.zeros_like(every))))
            continue
        margin = every - tf.reduce_sum(rows["x"] * rows["y"], axis=1)
        # The same as log-sum-exp of all less s+, but where the loss is small nothing cancels.
        loss = margin if pairs.decoupled else TENSORFLOW.softplus(margin)
        losses.append(tf.reduce_mean(loss))
    return tf.reduce_mean(tf.stack(losses))


def _logits(rows: Rows, anchor: str, pairs: Pairs, numbers: Numbers | None) -> list[tf.Tensor]:
    """The scores in the softmaxes of the anchors; of pairs that do not count far below all."""
    found = []
    for block, both, which in info_nce_blocks(pairs, numbers is not None):
        if anchor != block.left and not (both and anchor == block.right):
            continue
        pool = block.right if anchor == block.left else block.left
        s = tf.matmul(rows[anchor], rows[pool], transpose_b=True)
        never = tf.constant(0.5 * s.dtype.min, s.dtype)  # -inf of all pairs would give NaN
        sides = None if numbers is None or which == "every" else numbers.of(block)
        if sides is not None:
            equal = sides[0][:, None] == sides[1][None, :]
            s = tf.where(equal, *((s, never) if which == "equal" else (never, s)))
        if block.skips_diagonal:
            row = tf.range(tf.shape(s)[0])
            # Not set_diag, whose gradient XLA cannot compile while the size is unknown.
            s = tf.where(row[:, None] == row[None, :], never, s)
        found.append(s)
    return found
