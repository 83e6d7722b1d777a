"""One sweep over the tiles of a block: the mean and the gradients, both final in one pass."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fmicl_core.ops import LOGIT_BOUND
from fmicl_jax.ops import JAX, product, square_lengths
from fmicl_jax.plan import Gradients, Numbers, Plan, Wanted, coefficients_of
from fmicl_jax.tiled_positives import positive_sweep
from fmicl_jax.tiles import (
    GradientSums,
    counted_pairs,
    split_tiles,
    tile_numbers,
    tile_places,
    zero_of,
)


def sweep_ordered(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    wanted: Wanted,
) -> tuple[jax.Array, Gradients]:
    """The mean over a block, or the mean score of its positives, and the gradients that are wanted.

    Args:
        left: (N, D) features, equal numbers being neighbours.
        right: (K, D) features in such an order, or None for left.
        bias: constant of z that learns, or None.
        numbers: numbers of their rows, or None where all differ.
        weights: (N,) weight of each positive of a row of left; None for negatives.
        plan: settings of the sweep.
        wanted: whether the gradients in left, in right and in the bias are wanted.
    """

    def plain() -> tuple[jax.Array, Gradients]:
        if numbers is not None and weights is not None:
            return positive_sweep(left, right, bias, numbers, weights, plan, wanted)
        return sweep(left, right, bias, plan, wanted, numbers)

    if plan.fused is None:
        return plain()
    from fmicl_jax.fused_pallas import fused_mean_and_gradients  # imports Pallas

    fused = partial(fused_mean_and_gradients, left, right, bias, plan, wanted, numbers, weights)
    if plan.fused.interpret:
        return fused()
    # While tracing the device was a guess: what is compiled for another is the plain tiles.
    mean, gradients = jax.lax.platform_dependent(cuda=fused, default=plain)
    return mean, gradients


def sweep(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    plan: Plan,
    wanted: Wanted,
    numbers: Numbers | None = None,
) -> tuple[jax.Array, Gradients]:
    """The mean excess, and its gradients where they are wanted.

    A symmetric block (right None) visits each pair once, i < j, and has one gradient, in left.
    Pairs with equal numbers count as 0.
    """
    pairwise, skips_diagonal, tile, _ = plan
    a, b, c = coefficients_of(pairwise, bias)
    symmetric = right is None
    others = left if right is None else right
    n, k = len(left), len(others)
    rows, columns = split_tiles(left, tile), split_tiles(others, tile)
    want_left, want_right, want_bias = (wanted[0], wanted[0], wanted[2]) if symmetric else wanted
    marks = None if numbers is None else tile_numbers(numbers, tile)
    zero = zero_of(left, others, bias)
    grad_rows = GradientSums.zeros(rows, want_left, bool(b), zero)
    grad_columns = None if symmetric else GradientSums.zeros(columns, want_right, bool(b), zero)

    def at_edge(z: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Total and slopes without the diagonal, equal numbers and what fills the tile."""
        keep = counted_pairs(i, j, z.shape, n, k, symmetric, skips_diagonal)
        if marks is not None:
            keep &= ~marks[0].equal(i, marks[1], j)
        excess, slope = pairwise.excess_and_slope(z, JAX)
        return JAX.sum(jnp.where(keep, excess, 0.0)), jnp.where(keep, slope, 0.0)

    def inside(
        z: jax.Array, i: jax.Array, j: jax.Array, bounded: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        return pairwise.excess_total_and_slope(z, JAX, bounded)

    formulas: list[Any] = [at_edge, inside]
    bounded: Any = False
    if bias is not None and pairwise.gains_by_a_bound:
        formulas.append(partial(inside, bounded=True))
        longest = (square_lengths(side).max() for side in (left, others))
        bounded = jnp.sqrt(math.prod(longest)) + bias < LOGIT_BOUND

    def step(carry: Any, place: Any) -> tuple[Any, Any]:
        grad_rows, grad_columns = carry
        i, j, edge = place
        x, y = rows[i], columns[j]
        if marks is not None:
            edge |= marks[0].meets(i, marks[1], j)
        z = product(a * x, y.T) + c
        if b:
            z = z + b * (square_lengths(x)[:, None] + square_lengths(y)[None, :])
        chosen = jnp.where(edge, 0, 1 + bounded)
        total, weight = jax.lax.switch(chosen, formulas, z, i, j)
        grad_rows = grad_rows.add(i, weight, y)
        if symmetric:
            grad_rows = grad_rows.add(j, weight.T, x)
        else:
            grad_columns = grad_columns.add(j, weight.T, x)
        return (grad_rows, grad_columns), (total, JAX.sum(weight) if want_bias else None)

    places = tile_places(rows.shape, columns.shape, n, k, symmetric, skips_diagonal)
    gradients, (totals, masses) = jax.lax.scan(step, (grad_rows, grad_columns), places)
    grad_rows, grad_columns = gradients
    pairs = n * (k - 1 if skips_diagonal else k)
    scale = (2.0 if symmetric else 1.0) / pairs
    grad_left = grad_rows.finish(a, b, scale, left)
    grad_right = None if grad_columns is None else grad_columns.finish(a, b, scale, others)
    grad_bias = masses.sum() * scale if want_bias else None
    return totals.sum() * scale, (grad_left, grad_right, grad_bias)
