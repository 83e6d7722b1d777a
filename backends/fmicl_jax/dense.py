"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmicl_core import FMICL
from fmicl_jax.ops import JAX, off_diagonal, product, square_lengths

Rows = dict[str, jax.Array]


def positive_scores(rows: Rows, objective: FMICL) -> jax.Array:
    """Scores of the pairs (x_i, y_i), whose mean is the alignment; (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = objective.coefficients()
    z = a * (x * y).sum(axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return objective.positive(z, JAX)


def dense_uniformity(rows: Rows, objective: FMICL) -> jax.Array:
    """Uniformity: mean penalty of the negative pairs; scalar.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        objective: the settings; its normalization has been applied.
    """
    total = jnp.zeros((), rows["x"].dtype)
    for block in objective.blocks("bank" in rows):
        right = None if block.symmetric else rows[block.right]
        mean = dense_block_mean(rows[block.left], right, objective, block.skips_diagonal)
        total = total + block.share * mean
    return total


def dense_block_mean(
    left: jax.Array, right: jax.Array | None, objective: FMICL, skips_diagonal: bool
) -> jax.Array:
    """Mean penalty over the pairs (left_i, right_j), i != j if so asked; right None means left."""
    a, b, c = objective.coefficients()
    right = left if right is None else right
    z = a * product(left, right.T) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    return objective.negative(off_diagonal(z) if skips_diagonal else z, JAX).mean()
