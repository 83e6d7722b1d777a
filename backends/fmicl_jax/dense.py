"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmicl_core import FMICL
from fmicl_jax.ops import JAX, off_diagonal, product, square_lengths

Rows = dict[str, jax.Array]


def positive_term(rows: Rows, objective: FMICL) -> jax.Array:
    """Alignment: mean score of the pairs (x_i, y_i); scalar."""
    x, y = rows["x"], rows["y"]
    a, b, c = objective.coefficients()
    z = a * (x * y).sum(axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return objective.positive(z, JAX).mean()


def dense_uniformity(rows: Rows, objective: FMICL) -> jax.Array:
    """Uniformity: mean penalty of the negative pairs; scalar.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        objective: the settings; its normalization has been applied.
    """
    a, b, c = objective.coefficients()
    total = jnp.zeros((), rows["x"].dtype)
    for block in objective.blocks("bank" in rows):
        left, right = rows[block.left], rows[block.right]
        z = a * product(left, right.T) + c
        if b:
            z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
        if block.skips_diagonal:
            z = off_diagonal(z)
        total = total + block.share * objective.negative(z, JAX).mean()
    return total
