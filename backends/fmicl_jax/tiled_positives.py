"""Positive pairs of the tiled form: those with equal ids, in the few tiles that have any."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fmicl_jax.ops import JAX, product, square_lengths
from fmicl_jax.plan import Gradients, Numbers, Plan, Wanted, coefficients_of
from fmicl_jax.tiles import (
    GradientSums,
    counted_pairs,
    over_meeting_tiles,
    split_tiles,
    tile_numbers,
    zero_of,
)


def positive_sweep(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers,
    weights: jax.Array,
    plan: Plan,
    wanted: Wanted,
) -> tuple[jax.Array, Gradients]:
    """The mean weighted score of the positives, and its gradients where they are wanted; equals

        (weights[:, None] * jnp.where(equal_numbers, score, 0)).sum() / len(left)

    A symmetric block (right None) visits each pair once, i < j; rows with equal numbers weigh the
    same.

    Args:
        left: (N, D) features, equal numbers being neighbours.
        right: (K, D) features in such an order, or None for left.
        bias: constant of z that learns, or None.
        numbers: numbers of their rows.
        weights: (N,) weight of each positive of a row of left.
        plan: settings of the sweep.
        wanted: whether the gradients in left, in right and in the bias are wanted.
    """
    pairwise, skips_diagonal, tile, _ = plan
    a, b, c = coefficients_of(pairwise, bias)
    symmetric = right is None
    others = left if right is None else right
    n, k = len(left), len(others)
    rows, columns, shares = (split_tiles(side, tile) for side in (left, others, weights))
    marks = tile_numbers(numbers, tile)
    want_left, want_right, want_bias = (wanted[0], wanted[0], wanted[2]) if symmetric else wanted
    zero = zero_of(left, others, bias)
    grad_rows = GradientSums.zeros(rows, want_left, bool(b), zero)
    grad_columns = None if symmetric else GradientSums.zeros(columns, want_right, bool(b), zero)
    totals = jnp.zeros_like(shares) + zero
    masses = totals if want_bias else None

    def step(carry: Any, i: jax.Array, j: jax.Array) -> Any:
        totals, masses, grad_rows, grad_columns = carry
        x, y = rows[i], columns[j]
        z = product(a * x, y.T) + c
        if b:
            z = z + b * (square_lengths(x)[:, None] + square_lengths(y)[None, :])
        keep = counted_pairs(i, j, z.shape, n, k, symmetric, skips_diagonal)
        keep &= marks[0].equal(i, marks[1], j)
        score = jnp.where(keep, pairwise.positive(z, JAX), 0.0)
        totals = totals.at[i].add(score.sum(axis=1))
        if any(wanted):
            weight = shares[i][:, None] * pairwise.positive_slope(z, JAX)
            weight = jnp.where(keep, weight, 0.0)
            grad_rows = grad_rows.add(i, weight, y)
            if symmetric:
                grad_rows = grad_rows.add(j, weight.T, x)
            else:
                grad_columns = grad_columns.add(j, weight.T, x)
            masses = masses.at[i].add(weight.sum(axis=1)) if want_bias else None
        return totals, masses, grad_rows, grad_columns

    start = totals, masses, grad_rows, grad_columns
    totals, masses, grad_rows, grad_columns = over_meeting_tiles(marks, symmetric, step, start)
    scale = (2.0 if symmetric else 1.0) / n
    grad_left = grad_rows.finish(a, b, scale, left)
    grad_right = None if grad_columns is None else grad_columns.finish(a, b, scale, others)
    # A sum over the rows of a tile, then over the tiles, as `Ops.sum`.
    grad_bias = None if masses is None else scale * JAX.sum(masses)
    return scale * JAX.sum(shares * totals), (grad_left, grad_right, grad_bias)
