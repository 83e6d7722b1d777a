"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten. The tiles are
a `lax.scan`, so that compile time does not grow with the batch.

With ids the rows are first brought into an order in which equal ids are neighbours: the tiles that
hold pairs with equal ids are then few. All others take the path of a batch without ids.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fmicl_core import Pairwise
from fmicl_core.checks import once_differentiable
from fmicl_core.forms import positive_tile_size, tile_size
from fmicl_core.ops import LOGIT_BOUND
from fmicl_jax.ids import in_order
from fmicl_jax.ops import JAX, product, square_lengths
from fmicl_jax.plan import Fused, Gradients, Numbers, Plan, Wanted, coefficients_of
from fmicl_jax.tiled_positives import positive_sweep
from fmicl_jax.tiles import (
    GradientSums,
    counted_pairs,
    split_tiles,
    tile_numbers,
    tile_places,
    zero_of,
)


def tiled_block_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers | None = None,
    *,
    bias: jax.Array | None = None,
    fused: Fused | None = None,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j), as `fmicl_jax.dense.dense_block_mean`."""
    plan = Plan(pairwise, skips_diagonal, tile_size(jax.default_backend()), fused)
    return _block_mean(left, right, bias, numbers, None, plan)


def tiled_positive_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers,
    weights: jax.Array,
    *,
    bias: jax.Array | None = None,
    fused: Fused | None = None,
) -> jax.Array:
    """Mean weighted score of the positives, as `fmicl_jax.dense.dense_positive_mean`."""
    plan = Plan(pairwise, skips_diagonal, positive_tile_size(jax.default_backend()), fused)
    return _block_mean(left, right, bias, numbers, weights, plan)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _block_mean(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j) or, with weights, mean score of the positives.

    right None means left.
    """
    nothing = False, False, False
    mean, _ = _mean_and_gradients(left, right, bias, numbers, weights, plan, nothing)
    return mean


def _block_mean_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The derivative is <gradient, tangent>: forward mode as it stands, reverse mode by transposing.
    # Weights are made of ids and have none.
    tangents = tangents[:3]
    wanted = tuple(t is not None and not isinstance(t, SymbolicZero) for t in tangents)
    mean, gradients = _once(*primals, plan, wanted)
    slope = jnp.zeros((), mean.dtype)
    for gradient, tangent in zip(gradients, tangents, strict=True):
        if gradient is not None:
            slope = slope + (gradient * tangent).sum()
    return mean, slope


_block_mean.defjvp(_block_mean_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _once(
    left: Any, right: Any, bias: Any, numbers: Any, weights: Any, plan: Plan, wanted: Any
) -> Any:
    return _mean_and_gradients(left, right, bias, numbers, weights, plan, wanted)


@_once.defjvp
def _(plan, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(5, 6))
def _mean_and_gradients(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    wanted: Wanted,
) -> tuple[jax.Array, Gradients]:
    """The mean, and its gradients where they are wanted."""
    if numbers is None:
        return _of_ordered(left, right, bias, None, None, plan, wanted)
    order, back = in_order(numbers[0])
    left, own = left[order], numbers[0][order]
    weights = None if weights is None else weights[order]
    theirs, back_right = None, back
    if right is not None and numbers[1] is not None:
        order, back_right = in_order(numbers[1])
        right, theirs = right[order], numbers[1][order]
    mean, gradients = _of_ordered(left, right, bias, (own, theirs), weights, plan, wanted)
    in_left, in_right, in_bias = gradients
    in_left = None if in_left is None else in_left[back]
    in_right = None if in_right is None else in_right[back_right]
    return mean, (in_left, in_right, in_bias)


def _of_ordered(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    wanted: Wanted,
) -> tuple[jax.Array, Gradients]:
    """The same of rows whose equal numbers are neighbours."""

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
