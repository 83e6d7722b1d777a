"""The Pallas routine of `fmicl_jax.fused`: sums and gradients of one block in a pass over tiles.

`fmicl_jax.fused_program` is what its programs run. Imported only where it is used, as Pallas takes
a while.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from fmicl_core.fused import parts_for, tiles_for, writes_weights
from fmicl_jax.fused_numbers import tile_ranges, visited_tiles, weights_by_number
from fmicl_jax.fused_program import Program, Side, Sums, padded_side, run_program
from fmicl_jax.fused_weights import weighed_sums
from fmicl_jax.plan import Gradients, Plan, Wanted
from fmicl_jax.tiles import zero_of


def fused_mean_and_gradients(
    left: jax.Array, right: jax.Array | None, bias: jax.Array | None, plan: Plan, wanted: Wanted,
    numbers: tuple[jax.Array, jax.Array | None] | None = None, weights: jax.Array | None = None,
) -> tuple[jax.Array, Gradients]:  # fmt: skip
    """Mean excess or, with weights, mean score of the positives, and the wanted gradients.

    Equals the sweeps of `fmicl_jax.tiled`. Every program owns rows of one gradient, so that
    nothing is added in an order that could differ between runs. It takes a launch for either side,
    the scores computed twice: 8 N^2 D flops for a full block in place of 6, 4 N^2 D for a symmetric
    one in place of 3. Where features are wide, `fused_weights` computes them once.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None for left.
        bias: constant of z that learns, or None.
        plan: settings of the sweep.
        wanted: whether the gradients in left, in right and in the bias are wanted.
        numbers: numbers (N,) and (K,) of the rows on either side, the latter None for the former;
            int32. Pairs with equal numbers count as 0. None: all pairs count.
        weights: weights (N,) of the rows of left, equal for equal numbers. If given, the mean is
            that over the rows of left of the weighted sums over pairs with equal numbers.
    """
    a, b, _ = plan.pairwise.coefficients()
    symmetric = right is None
    others = left if right is None else right
    pairs = len(left) * (len(others) - plan.skips_diagonal) if weights is None else len(left)
    # Inside jax.shard_map all that goes into the routine must vary over the same mesh axes.
    zero = zero_of(left, others, bias)
    sides: tuple[Any, Any] = None, None
    if numbers is not None:
        sides = numbers[0], numbers[0] if numbers[1] is None else numbers[1]
        zero += zero_of(*sides).astype(zero.dtype)
        nothing = 0 * zero.astype(sides[0].dtype)
        sides = sides[0] + nothing, sides[1] + nothing
    left, others = left + zero, others + zero
    bias = None if bias is None else bias + zero

    def gradient(rows: jax.Array, products: jax.Array, mass: jax.Array | None) -> jax.Array:
        # In a symmetric block (i, j) and (j, i) both count.
        scale = (2.0 if symmetric else 1.0) / pairs
        whole = a * products
        if b and mass is not None:
            whole = whole + 2.0 * b * mass[:, None] * rows
        return scale * whole

    fused = plan.fused
    assert fused is not None
    outside = writes_weights(left.shape[1], fused.dtype)
    if outside and weights is None and (wanted[0] or wanted[1]):
        both = wanted[1] and not symmetric
        sums = weighed_sums(left, others, plan, both, bool(b) or wanted[2], sides, bias)
        return sums.total / pairs, (
            gradient(left, sums.left, sums.mass_left) if wanted[0] else None,
            None if sums.right is None else gradient(others, sums.right, sums.mass_right),
            sums.mass_left.sum() / pairs if wanted[2] and sums.mass_left is not None else None,
        )
    how = plan, wanted[0], symmetric and not wanted[0]
    total, products, mass = block_sums(left, others, *how, sides, weights, bias, wanted[2])
    grad_bias = mass.sum() / pairs if wanted[2] else None
    grad_left = gradient(left, products, mass) if wanted[0] else None
    grad_right = None
    if wanted[1] and not symmetric:
        sides = sides[::-1]
        weights = None if weights is None else weights_by_number(*sides, weights)
        _, products, mass = block_sums(others, left, plan, True, False, sides, weights, bias)
        grad_right = gradient(others, products, mass)
    return total / pairs, (grad_left, grad_right, grad_bias)


def block_sums(
    left: jax.Array, right: jax.Array, plan: Plan, grad: bool, triangle: bool,
    numbers: tuple[Any, Any] = (None, None), weights: jax.Array | None = None,
    bias: jax.Array | None = None, slope: bool = False,
) -> tuple[jax.Array, Any, Any]:  # fmt: skip
    """Sums over the pairs (left_i, right_j) in one launch, for the gradient in left alone.

    z = a (left @ right.T) + b (|left|^2[:, None] + |right|^2) + c + bias
    value, weight = evaluate(z)                                       # 0 for pairs left out
    return value.sum(), weight @ right, weight.sum(axis=1)

    Products are those of `Fused.dtype`.

    Args:
        left: (N, D) features, float32.
        right: (K, D) features, float32.
        plan: settings of the sweep.
        grad: whether the second is wanted, and the last where z has squared lengths. They are still
            to be scaled; what is not wanted is None.
        triangle: whether right is left and only the tiles with i < j are visited, and count twice.
        numbers: numbers (N,) and (K,) of the rows, int32; pairs with equal numbers are left out.
        weights: weights (N,) of the rows of left, equal for equal numbers. If given, pairs with
            equal numbers are all that count, as positive pairs: their scores, times the weight.
        bias: constant of z that learns, or None.
        slope: whether the last is wanted for the derivative in the bias.
    """
    (n, d), k, fused = left.shape, len(right), plan.fused
    assert fused is not None
    tiles = tiles_for(d, fused.dtype, fused.tf32, fused.memory, atomic=False)
    chunks = -(-d // tiles.width)
    parts = parts_for(fused.processors, n, k, chunks, tiles)
    pairs = "all" if numbers[0] is None else "different" if weights is None else "equal"
    b = plan.pairwise.coefficients()[1]
    masses = slope or bool(grad and b)
    program = Program(plan, fused, n, k, tiles, chunks, parts, grad, masses, triangle, pairs)

    def side(rows: jax.Array, bias: jax.Array | None, numbers: Any, size: int) -> Side:
        made = padded_side(rows, bias, numbers, plan, tiles, size)
        return made if numbers is None else made._replace(ranges=tile_ranges(made.numbers, size))

    x, y = side(left, bias, numbers[0], tiles.rows), side(right, None, numbers[1], tiles.columns)
    visited = visited_tiles(x.ranges, y.ranges) if pairs == "equal" else None
    rows, width = program.row_blocks * tiles.rows, chunks * tiles.width

    def like_inputs(x: jax.Array) -> Sums:  # which may vary over axes of a mesh
        shapes = (parts, rows), (parts, rows, width), (parts, rows)
        kept = True, grad, masses
        return Sums(
            *(jnp.broadcast_to(0.0 * x[0, 0].astype(jnp.float32), shape) if keep else None
              for shape, keep in zip(shapes, kept, strict=True))
        )  # fmt: skip

    totals, products, mass = pl.pallas_call(
        partial(run_program, program),
        out_shape=jax.eval_shape(like_inputs, x.rows),
        # One axis: jax.vmap adds another, and a GPU has three.
        grid=(program.row_blocks * parts * chunks,),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=fused.interpret,
        name="fmicl_block_sums",
    )(x, y, visited)
    totals = totals[:, :n].sum(axis=0)
    products = products.sum(axis=0)[:n, :d] if grad else None
    mass = mass.sum(axis=0)[:n] if masses else None
    if weights is not None:  # equal for equal numbers, so that a row's is that of all its pairs
        totals = weights * totals
        products = None if products is None else weights[:, None] * products
        mass = None if mass is None else weights * mass
    twice = 2.0 if triangle else 1.0
    return twice * totals.sum(), products, None if mass is None else twice * mass
