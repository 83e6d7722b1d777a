"""The Pallas routine of `fmicl_jax.fused`: sums and gradients of one block in a pass over tiles.

It is written for Pallas' Triton backend. Imported only where it is used, as Pallas takes a while.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.lax import Precision

from fmicl_core.fused import Tiles, parts_for, tiles_for
from fmicl_jax.fused_formulas import evaluate
from fmicl_jax.fused_numbers import tile_ranges, visited_tiles, weights_by_number
from fmicl_jax.ops import square_lengths
from fmicl_jax.plan import Fused, Gradients, Plan


class Program(NamedTuple):
    """All that one program of the fused routine is made for."""

    plan: Plan
    fused: Fused
    n: int
    k: int
    tiles: Tiles
    chunks: int
    parts: int
    grad: bool
    triangle: bool
    pairs: str

    @property
    def row_blocks(self) -> int:
        """Number of programs that share a part of the columns and a chunk of the width."""
        return -(-self.n // self.tiles.rows)

    @property
    def span(self) -> int:
        """Number of columns in a part."""
        return -(-self.k // (self.tiles.columns * self.parts)) * self.tiles.columns


class Side(NamedTuple):
    """The rows on one side of a block; zeros fill the last tile.

    Args:
        rows: features (N, D), in the dtype of the products.
        bias: numbers (N,) to add to z, or None where z has no squared lengths.
        numbers: numbers (N,) of the rows, int32, or None.
        ranges: least and largest number in every tile, (2, tiles), or None.
    """

    rows: Any
    bias: Any
    numbers: Any
    ranges: Any


class Sums(NamedTuple):
    """What a launch adds up, by parts of the columns; what is not wanted is None.

    Args:
        totals: sums of every row's values, (parts, N).
        products: weighted sums of the rows on the other side, (parts, N, D).
        mass: sums of these weights, (parts, N).
    """

    totals: Any
    products: Any
    mass: Any


def fused_mean_and_gradients(
    left: jax.Array, right: jax.Array | None, plan: Plan, wanted: tuple[bool, bool],
    numbers: tuple[jax.Array, jax.Array] | None = None, weights: jax.Array | None = None,
) -> tuple[jax.Array, Gradients]:  # fmt: skip
    """Mean excess and the wanted gradients; equals `fmicl_jax.tiled.sweep`.

    Every program owns rows of one gradient, so that nothing is added in an order that could differ
    between runs. It takes a launch for either side, the scores computed twice: 8 N^2 D flops for a
    full block in place of 6, 4 N^2 D for a symmetric one in place of 3.
    """
    a, b, _ = plan.pairwise.coefficients()
    symmetric = right is None
    others = left if right is None else right
    pairs = len(left) * (len(others) - plan.skips_diagonal) if weights is None else len(left)
    # Inside jax.shard_map all that goes into the routine must vary over the same mesh axes;
    # features that are not finite have no loss anyway.
    zero = 0.0 * (left[0, 0] + others[0, 0])
    own = theirs = None
    if numbers is not None:
        own, theirs = numbers if numbers[1] is not None else (numbers[0],) * 2
        zero += 0.0 * (own[0] + theirs[0]).astype(zero.dtype)
        own, theirs = (side + 0 * zero.astype(side.dtype) for side in (own, theirs))
    left, others = left + zero, others + zero

    def sums(rows: jax.Array, columns: jax.Array, grad: bool, numbers: Any, weights: Any) -> Any:
        triangle = symmetric and not grad
        return block_sums(rows, columns, plan, grad, triangle, numbers, weights)

    def gradient(rows: jax.Array, products: jax.Array, mass: jax.Array | None) -> jax.Array:
        # In a symmetric block (i, j) and (j, i) both count.
        scale = (2.0 if symmetric else 1.0) / pairs
        whole = a * products if mass is None else a * products + 2.0 * b * mass[:, None] * rows
        return scale * whole

    total, products, mass = sums(left, others, wanted[0], (own, theirs), weights)
    grad_left = gradient(left, products, mass) if wanted[0] else None
    grad_right = None
    if wanted[1] and not symmetric:
        if weights is not None:
            weights = weights_by_number(theirs, own, weights)
        _, products, mass = sums(others, left, True, (theirs, own), weights)
        grad_right = gradient(others, products, mass)
    return total / pairs, (grad_left, grad_right)


def block_sums(
    left: jax.Array, right: jax.Array, plan: Plan, grad: bool, triangle: bool,
    numbers: tuple[Any, Any] = (None, None), weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:  # fmt: skip
    """Sums over the pairs (left_i, right_j) in one launch, for the gradient in left alone.

    z = a (left @ right.T) + b (|left|^2[:, None] + |right|^2) + c    # product in `Fused.dtype`
    value, weight = evaluate(z)                                       # 0 for pairs left out
    return value.sum(), weight @ right, weight.sum(axis=1)            # None without `grad`

    Args:
        left: (N, D) features, float32.
        right: (K, D) features, float32.
        plan: settings of the sweep.
        grad: whether the last two are wanted. They are still to be scaled; the last is None too
            where z has no squared lengths.
        triangle: whether right is left and only the tiles with i < j are visited, and count twice.
        numbers: numbers (N,) and (K,) of the rows, int32; pairs with equal numbers are left out.
        weights: weights (N,) of the rows of left, equal for equal numbers. If given, pairs with
            equal numbers are all that count, as positive pairs: their scores, times the weight.
    """
    (n, d), k, fused = left.shape, len(right), plan.fused
    assert fused is not None
    tiles = tiles_for(d, fused.dtype, fused.tf32, fused.memory, atomic=False)
    chunks = -(-d // tiles.width)
    parts = parts_for(fused.processors, n, k, chunks, tiles)
    pairs = "all" if numbers[0] is None else "different" if weights is None else "equal"
    program = Program(plan, fused, n, k, tiles, chunks, parts, grad, triangle, pairs)
    b = plan.pairwise.coefficients()[1]

    def side(rows: jax.Array, numbers: jax.Array | None, size: int) -> Side:
        missing = 0, -len(rows) % size
        padded = jnp.pad(rows.astype(fused.dtype), (missing, (0, -d % tiles.width)))
        bias = jnp.pad(b * square_lengths(rows), missing) if b else None
        if numbers is None:
            return Side(padded, bias, None, None)
        numbers = jnp.pad(numbers, missing, mode="edge")
        return Side(padded, bias, numbers, tile_ranges(numbers, size))

    x, y = side(left, numbers[0], tiles.rows), side(right, numbers[1], tiles.columns)
    visited = visited_tiles(x.ranges, y.ranges) if pairs == "equal" else None
    rows, width = program.row_blocks * tiles.rows, chunks * tiles.width

    def like_inputs(x: jax.Array) -> Sums:  # which may vary over axes of a mesh
        shapes = (parts, rows), (parts, rows, width), (parts, rows)
        kept = True, grad, grad and b
        return Sums(
            *(jnp.broadcast_to(0.0 * x[0, 0].astype(jnp.float32), shape) if keep else None
              for shape, keep in zip(shapes, kept, strict=True))
        )  # fmt: skip

    totals, products, mass = pl.pallas_call(
        partial(_program, program),
        out_shape=jax.eval_shape(like_inputs, x.rows),
        # One axis: jax.vmap adds another, and a GPU has three.
        grid=(program.row_blocks * parts * chunks,),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=fused.interpret,
        name="fmicl_block_sums",
    )(x, y, visited)
    totals = totals[:, :n].sum(axis=0)
    products = products.sum(axis=0)[:n, :d] if grad else None
    mass = mass.sum(axis=0)[:n] if grad and b else None
    if weights is not None:  # equal for equal numbers, so that a row's is that of all its pairs
        totals = weights * totals
        products = weights[:, None] * products if grad else None
        mass = weights * mass if grad and b else None
    return (2.0 if triangle else 1.0) * totals.sum(), products, mass


def _program(program: Program, left: Side, right: Side, visited: Any, *outputs: Any) -> None:
    """Sums of ROWS rows over one part of the columns; its chunk of the width of the gradient."""
    tiles, fused, pairs = program.tiles, program.fused, program.pairs
    a, b, c = program.plan.pairwise.coefficients()
    sums = Sums(*outputs)
    place = pl.program_id(0)
    block, place = place % program.row_blocks, place // program.row_blocks
    part, chunk = place % program.parts, place // program.parts
    rows = pl.ds(block * tiles.rows, tiles.rows)
    own = pl.ds(chunk * tiles.width, tiles.width)
    dot = partial(plgpu.dot, precision=_precision(fused.dtype, fused.tf32))
    # Weights can leave the range of float16; tf32 has its digits and the range of float32.
    operand = jnp.bfloat16 if fused.dtype == "bfloat16" else jnp.float32
    mine = left.rows[rows, own]
    if pairs != "all":
        least, largest = left.ranges[0, block], left.ranges[1, block]

    def scores(columns: Any, theirs: jax.Array) -> jax.Array:
        def add_piece(i: jax.Array, z: jax.Array) -> jax.Array:
            some = pl.ds(i * tiles.width, tiles.width)
            return z + dot(left.rows[rows, some], right.rows[columns, some], trans_b=True)

        if program.chunks == 1:
            z = dot(mine, theirs, trans_b=True)
        else:  # no loop of Python's: Pallas would keep all of the rows in registers
            nothing = jnp.zeros((tiles.rows, tiles.columns), jnp.float32)
            z = jax.lax.fori_loop(0, program.chunks, add_piece, nothing)
        z = a * z + c
        return z + left.bias[rows][:, None] + right.bias[columns][None, :] if b else z

    def masked(start: jax.Array, value: jax.Array, weight: jax.Array) -> Any:
        row = block * tiles.rows + jax.lax.broadcasted_iota(jnp.int32, value.shape, 0)
        column = start + jax.lax.broadcasted_iota(jnp.int32, value.shape, 1)
        counts = column < program.k  # rows beyond the last are dropped by the caller
        if program.triangle:
            counts &= row < column
        elif program.plan.skips_diagonal:
            counts &= row != column
        if pairs != "all":
            theirs = right.numbers[pl.ds(start, tiles.columns)][None, :]
            numbers = left.numbers[rows][:, None]
            counts &= numbers == theirs if pairs == "equal" else numbers != theirs
        return jnp.where(counts, value, 0.0), jnp.where(counts, weight, 0.0)

    def meets(start: jax.Array) -> jax.Array:
        """Whether the tile may have pairs with equal numbers."""
        tile = start // tiles.columns
        return (right.ranges[0, tile] <= largest) & (right.ranges[1, tile] >= least)

    def add_tile(start: jax.Array, sums: Any) -> Any:
        total, mass, products = sums
        columns = pl.ds(start, tiles.columns)
        theirs = right.rows[columns, own]
        value, weight = evaluate(program.plan.pairwise, scores(columns, theirs), pairs == "equal")
        bottom, end = (block + 1) * tiles.rows, start + tiles.columns
        edge = end > program.k
        if program.plan.skips_diagonal:
            edge |= (start < bottom) & (end > block * tiles.rows)
        if pairs != "all":
            edge |= meets(start)
        value, weight = jax.lax.cond(
            edge, partial(masked, start), lambda *unchanged: unchanged, value, weight
        )
        total += value.sum(axis=1)
        if program.grad:
            weight = weight.astype(operand)
            products += dot(weight, theirs.astype(operand))
            # Of the same rounded weights, because the two parts of a gradient cancel.
            mass = mass + weight.astype(jnp.float32).sum(axis=1) if b else None
        return total, mass, products

    def visit(turn: jax.Array, sums: Any) -> Any:
        start = first + turn * tiles.columns
        if pairs != "equal":
            return add_tile(start, sums)
        return jax.lax.cond(meets(start), partial(add_tile, start), lambda sums: sums, sums)

    first = part * program.span
    last = jnp.minimum(first + program.span, program.k)
    if program.triangle:
        first = jnp.maximum(first, block * tiles.rows // tiles.columns * tiles.columns)
    if pairs == "equal":
        first = jnp.maximum(first, visited[0, block] * tiles.columns)
        last = jnp.minimum(last, visited[1, block] * tiles.columns)
    count = (jnp.maximum(last - first, 0) + tiles.columns - 1) // tiles.columns
    nothing = jnp.zeros(tiles.rows, jnp.float32)
    products = jnp.zeros((tiles.rows, tiles.width), jnp.float32)
    total, mass, products = jax.lax.fori_loop(
        0, count, visit,
        (nothing, nothing if program.grad and b else None, products if program.grad else None),
    )  # fmt: skip
    if program.grad:
        sums.products[part, rows, own] = products

    @pl.when(chunk == 0)  # those of the other chunks are the same
    def _() -> None:
        sums.totals[part, rows] = total
        if program.grad and b:
            sums.mass[part, rows] = mass


def _precision(dtype: str, tf32: bool) -> Precision:
    if dtype == "float32" and not tf32:
        return Precision.HIGHEST
    # Of float16 the second product is one of float32 numbers.
    return Precision.DEFAULT if dtype == "bfloat16" else Precision.HIGH
