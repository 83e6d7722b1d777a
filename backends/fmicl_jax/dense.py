"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmicl_core import Pairwise
from fmicl_jax.ops import JAX, off_diagonal, product, square_lengths
from fmicl_jax.plan import Numbers, Rows, coefficients_of


def positive_scores(rows: Rows, pairwise: Pairwise, bias: jax.Array | None) -> jax.Array:
    """Score of every positive pair (x_i, y_i); (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = coefficients_of(pairwise, bias)
    z = a * (x * y).sum(axis=1) + c
    if b:
        z = z + b * (square_lengths(x) + square_lengths(y))
    return pairwise.positive(z, JAX)


def dense_block_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers | None = None,
    *,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j), where pairs with equal ids count as 0.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None for left.
        pairwise: formulas of a pair.
        skips_diagonal: whether pairs with i = j are left out.
        numbers: numbers of the rows, equal where their ids are; None: no two ids are equal.
        bias: constant of z that learns, or None.
    """
    z = _all_pairs(left, right, pairwise, bias)
    if numbers is None:
        return pairwise.excess(off_diagonal(z) if skips_diagonal else z, JAX).mean()
    counts = ~_equal(numbers)
    if skips_diagonal:
        z, counts = off_diagonal(z), off_diagonal(counts)
    return _where(counts, pairwise.excess, z, pairwise).mean()


def dense_positive_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers,
    weights: jax.Array,
    *,
    bias: jax.Array | None = None,
) -> jax.Array:
    """(1/N) sum over i of weights_i times the scores of the pairs (left_i, right_j) with equal ids.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None for left.
        pairwise: formulas of a pair.
        skips_diagonal: whether pairs with i = j are left out.
        numbers: numbers of the rows, equal where their ids are.
        weights: (N,) weight of each positive of a row of left.
        bias: constant of z that learns, or None.
    """
    z, counts = _all_pairs(left, right, pairwise, bias), _equal(numbers)
    if skips_diagonal:
        counts &= ~jnp.eye(len(counts), dtype=bool)
    return (weights * _where(counts, pairwise.positive, z, pairwise).sum(axis=1)).mean()


def _all_pairs(
    left: jax.Array, right: jax.Array | None, pairwise: Pairwise, bias: jax.Array | None
) -> jax.Array:
    """Number z of every pair; (N, K)."""
    a, b, c = coefficients_of(pairwise, bias)
    right = left if right is None else right
    z = a * product(left, right.T) + c
    if b:
        z = z + b * (square_lengths(left)[:, None] + square_lengths(right)[None, :])
    return z


def _equal(numbers: Numbers) -> jax.Array:
    left, right = numbers
    return left[:, None] == (left if right is None else right)[None, :]


def _where(
    counts: jax.Array, of: Callable[..., jax.Array], z: jax.Array, pairwise: Pairwise
) -> jax.Array:
    """Values of the pairs that count, 0 of the others, whose formulas see a harmless z.

    Infinity times 0 would make the derivative NaN.
    """
    return jnp.where(counts, of(jnp.where(counts, z, pairwise.coincident), JAX), 0.0)
