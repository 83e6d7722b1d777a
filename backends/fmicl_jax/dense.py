"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import jax

from fmicl_core import Pairwise
from fmicl_jax.ops import JAX, off_diagonal, product, square_lengths

Rows = dict[str, jax.Array]


def positive_scores(rows: Rows, pairwise: Pairwise) -> jax.Array:
    """Score of every positive pair (x_i, y_i); (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = pairwise.coefficients()
    z = a * (x * y).sum(axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return pairwise.positive(z, JAX)


def dense_block_mean(
    left: jax.Array, right: jax.Array | None, pairwise: Pairwise, skips_diagonal: bool
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left."""
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * product(left, right.T) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    return pairwise.excess(off_diagonal(z) if skips_diagonal else z, JAX).mean()
