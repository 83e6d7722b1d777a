"""The fused routine for wide features: it writes weights down, some rows of a block at a time.

Where all of a row no longer fits a program, scores would be computed anew for each of its pieces,
and for either side. So one routine computes scores, sums and weights of as many rows as
`SLAB_BYTES` hold, and XLA the products of the weights: 6 N^2 D flops, or 4 of a symmetric block.
Imported only where it is used, as Pallas takes a while. It has been compiled for GPUs and run in
Pallas' interpreter, but not yet run on a GPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from fmicl_core.fused import Tiles, weight_tiles
from fmicl_jax.fused_formulas import evaluate
from fmicl_jax.fused_program import (
    Side,
    at_edge,
    operand_of,
    padded_side,
    places,
    precision_of,
    shifted,
)
from fmicl_jax.plan import Plan
from fmicl_jax.tiles import zero_of

#: Bytes of the weights that are in memory at a time.
SLAB_BYTES = 256 * 2**20


class Slab(NamedTuple):
    """What is made for some rows; masses are None where nobody needs them.

    Args:
        weights: weights (rows, K), in the dtype of the second product.
        totals: sums of every row's values, (columns of tiles, rows).
        masses: sums of every row's weights, (columns of tiles, rows).
    """

    weights: Any
    totals: Any
    masses: Any


class Sums(NamedTuple):
    """The sums over a block, as those of `fused_pallas.block_sums`; of right None if not wanted."""

    total: jax.Array
    left: jax.Array
    mass_left: jax.Array | None
    right: jax.Array | None
    mass_right: jax.Array | None


def weighed_sums(
    left: jax.Array, right: jax.Array, plan: Plan, columns: bool, masses: bool,
    numbers: tuple[Any, Any] = (None, None), bias: jax.Array | None = None,
) -> Sums:  # fmt: skip
    """Sums over the pairs (left_i, right_j), i != j if so planned, and gradients of both sides.

    z = a (left @ right.T) + b (|left|^2[:, None] + |right|^2) + c + bias
    value, weight = evaluate(z)                                       # 0 for pairs left out
    return (value.sum(), weight @ right, weight.sum(axis=1), weight.T @ left, weight.sum(axis=0))

    Products are those of `Fused.dtype`. Gradients are still to be scaled.

    Args:
        left: (N, D) features, float32.
        right: (K, D) features, float32.
        plan: settings of the sweep.
        columns: whether the gradient in right is wanted.
        masses: whether the sums of the weights are wanted.
        numbers: numbers (N,) and (K,) of the rows, int32; pairs with equal numbers are left out.
        bias: constant of z that learns, or None.
    """
    (n, d), k, fused = left.shape, len(right), plan.fused
    assert fused is not None
    tiles = weight_tiles(fused.memory)
    operand = operand_of(fused.dtype)
    bytes_of_tiles = tiles.rows * _filled(k, tiles.columns) * jnp.dtype(operand).itemsize
    most = min(max(1, SLAB_BYTES // bytes_of_tiles) * tiles.rows, _filled(n, tiles.rows))

    x = padded_side(left, bias, numbers[0], plan, tiles, most)
    y = padded_side(right, None, numbers[1], plan, tiles, tiles.columns)
    slabs = jax.tree.map(lambda v: v.reshape(-1, most, *v.shape[1:]), x)
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)

    def add(sums: Any, given: tuple[jax.Array, Side]) -> tuple[Any, Any]:
        first, some = given
        made = _slab(first, some, y, plan, tiles, n, k, masses)
        rows = product(made.weights, y.rows.astype(operand))
        if columns:
            more = product(made.weights.T, some.rows.astype(operand))
            mass = made.weights.sum(axis=0, dtype=jnp.float32) if masses else None
            sums = jax.tree.map(jnp.add, sums, (more, mass))
        return sums, (made.totals.sum(), rows, None if made.masses is None else made.masses.sum(0))

    zero = 0.0 * y.rows.astype(jnp.float32)  # which may vary over axes of a mesh
    nothing = (zero, zero[:, 0] if masses else None) if columns else None
    same = zero_of(x.rows, y.rows).astype(jnp.int32)
    firsts = most * jnp.arange(len(slabs.rows), dtype=jnp.int32) + same
    sums: Any
    sums, (totals, rows, mass) = jax.lax.scan(add, nothing, (firsts, slabs))
    of_right, mass_right = sums if columns else (None, None)
    return Sums(
        totals.sum(), rows.reshape(-1, rows.shape[-1])[:n, :d],
        None if mass is None else mass.reshape(-1)[:n],
        None if of_right is None else of_right[:k, :d],
        None if mass_right is None else mass_right[:k],
    )  # fmt: skip


def _filled(count: int, size: int) -> int:
    return -(-count // size) * size


def _slab(
    first: jax.Array, left: Side, right: Side, plan: Plan, tiles: Tiles, n: int, k: int,
    masses: bool,
) -> Slab:  # fmt: skip
    """Weights of some rows, the first of them being that of this number among n."""
    fused = plan.fused
    assert fused is not None
    operand = operand_of(fused.dtype)
    rows, width = len(left.rows), len(right.rows)
    across = width // tiles.columns

    def like_inputs(x: jax.Array) -> Slab:  # which may vary over axes of a mesh
        one = 0.0 * x[0, 0].astype(jnp.float32)
        line = jnp.broadcast_to(one, (across, rows))
        weights = jnp.broadcast_to(one.astype(operand), (rows, width))
        return Slab(weights, line, line if masses else None)

    made: Slab = pl.pallas_call(
        partial(_run_program, plan, tiles, n, k, rows // tiles.rows),
        out_shape=jax.eval_shape(like_inputs, left.rows),
        grid=(rows // tiles.rows * across,),  # one axis: jax.vmap adds another
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=fused.interpret,
        name="fmicl_block_weights",
    )(first[None], left, right)
    return made


def _run_program(
    plan: Plan, tiles: Tiles, n: int, k: int, row_blocks: int, first: Any, left: Side, right: Side,
    weights: Any, totals: Any, masses: Any,
) -> None:  # fmt: skip
    """The weights of one tile; the programs of the same columns come one after the other."""
    fused = plan.fused
    assert fused is not None
    place = pl.program_id(0)
    block, column = place % row_blocks, place // row_blocks
    rows = pl.ds(block * tiles.rows, tiles.rows)
    columns = pl.ds(column * tiles.columns, tiles.columns)
    dot = partial(plgpu.dot, precision=precision_of(fused.dtype, fused.tf32))

    def add_piece(i: jax.Array, z: jax.Array) -> jax.Array:
        some = pl.ds(i * tiles.width, tiles.width)
        return z + dot(left.rows[rows, some], right.rows[columns, some], trans_b=True)

    nothing = jnp.zeros((tiles.rows, tiles.columns), jnp.float32)
    z = jax.lax.fori_loop(0, left.rows.shape[1] // tiles.width, add_piece, nothing)
    z = shifted(z, plan, left, right, rows, columns)
    value, weight = evaluate(plan.pairwise, z, False)
    start, begins = first[0] + block * tiles.rows, column * tiles.columns

    def masked(value: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        row, other = places(tiles, start, begins)
        counts = (row < n) & (other < k)
        if plan.skips_diagonal:
            counts &= row != other
        if left.numbers is not None:
            counts &= left.numbers[rows][:, None] != right.numbers[columns][None, :]
        return jnp.where(counts, value, 0.0), jnp.where(counts, weight, 0.0)

    edge = at_edge(plan, tiles, start, begins, k) | (start + tiles.rows > n)
    if left.numbers is not None:
        value, weight = masked(value, weight)
    else:
        value, weight = jax.lax.cond(edge, masked, lambda *same: same, value, weight)
    weight = weight.astype(weights.dtype)
    weights[rows, columns] = weight
    totals[column, rows] = value.sum(axis=1)
    if masses is not None:
        masses[column, rows] = weight.astype(jnp.float32).sum(axis=1)
