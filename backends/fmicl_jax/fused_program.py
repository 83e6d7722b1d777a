"""What one program of the Pallas routine does: its rows against its part of the columns.

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

from fmicl_core.fused import Tiles
from fmicl_jax.fused_formulas import evaluate
from fmicl_jax.ops import square_lengths
from fmicl_jax.plan import Fused, Plan


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
    masses: bool
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
    """The rows on one side of a block; zeros, and the last number again, fill the last tile.

    Args:
        rows: features (N, D), in the dtype of the products.
        shift: numbers (N,) to add to z, of squared lengths or a bias that learns, or None.
        numbers: numbers (N,) of the rows, int32, or None.
        ranges: least and largest number in every tile, (2, tiles), or None.
    """

    rows: Any
    shift: Any
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


def run_program(program: Program, left: Side, right: Side, visited: Any, *outputs: Any) -> None:
    """Sums of ROWS rows over one part of the columns; its chunk of the width of the gradient."""
    tiles, fused, pairs = program.tiles, program.fused, program.pairs
    sums = Sums(*outputs)
    place = pl.program_id(0)
    block, place = place % program.row_blocks, place // program.row_blocks
    part, chunk = place % program.parts, place // program.parts
    rows = pl.ds(block * tiles.rows, tiles.rows)
    own = pl.ds(chunk * tiles.width, tiles.width)
    dot = partial(plgpu.dot, precision=precision_of(fused.dtype, fused.tf32))
    operand = operand_of(fused.dtype)
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
        return shifted(z, program.plan, left, right, rows, columns)

    def masked(start: jax.Array, value: jax.Array, weight: jax.Array) -> Any:
        row, column = places(tiles, block * tiles.rows, start)
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
        edge = at_edge(program.plan, tiles, block * tiles.rows, start, program.k)
        if pairs != "all":
            edge |= meets(start)
        value, weight = jax.lax.cond(
            edge, partial(masked, start), lambda *unchanged: unchanged, value, weight
        )
        total += value.sum(axis=1)
        if program.grad:
            weight = weight.astype(operand)
            products += dot(weight, theirs.astype(operand))
        if program.masses:
            # Of the same rounded weights, because the two parts of a gradient cancel.
            mass += weight.astype(jnp.float32).sum(axis=1)
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
        (nothing, nothing if program.masses else None, products if program.grad else None),
    )  # fmt: skip
    if program.grad:
        sums.products[part, rows, own] = products

    @pl.when(chunk == 0)  # those of the other chunks are the same
    def _() -> None:
        sums.totals[part, rows] = total
        if program.masses:
            sums.mass[part, rows] = mass


def padded_side(
    rows: jax.Array, bias: jax.Array | None, numbers: Any, plan: Plan, tiles: Tiles, size: int
) -> Side:
    """The rows with what fills tiles of `size` rows and of the width; without ranges."""
    missing, b = (0, -len(rows) % size), plan.pairwise.coefficients()[1]
    assert plan.fused is not None
    columns = 0, -rows.shape[1] % tiles.width
    padded = jnp.pad(rows.astype(plan.fused.dtype), (missing, columns))
    shift = b * square_lengths(rows) if b else bias  # a bias has no lengths beside it
    shift = None if shift is None else jnp.pad(jnp.broadcast_to(shift, len(rows)), missing)
    return Side(padded, shift, None if numbers is None else jnp.pad(numbers, missing, "edge"), None)


def shifted(z: jax.Array, plan: Plan, left: Side, right: Side, rows: Any, columns: Any) -> Any:
    """The numbers z of the pairs of some rows and columns, from the products."""
    a, _, c = plan.pairwise.coefficients()
    z = a * z + c
    z = z if left.shift is None else z + left.shift[rows][:, None]
    return z if right.shift is None else z + right.shift[columns][None, :]


def places(tiles: Tiles, top: Any, start: Any) -> tuple[jax.Array, jax.Array]:
    """Row and column of every pair of the tile that begins there."""
    shape = tiles.rows, tiles.columns
    row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return top + row, start + column


def at_edge(plan: Plan, tiles: Tiles, top: Any, start: Any, k: int) -> Any:
    """Whether the tile that begins there has columns beyond the last, or pairs to be skipped."""
    end = start + tiles.columns
    if not plan.skips_diagonal:
        return end > k
    return (end > k) | ((start < top + tiles.rows) & (end > top))


def operand_of(dtype: str) -> Any:
    """Dtype of the weights in the second product of features of that dtype."""
    # Weights can leave the range of float16; tf32 has its digits and the range of float32.
    return jnp.bfloat16 if dtype == "bfloat16" else jnp.float32


def precision_of(dtype: str, tf32: bool) -> Precision:
    """Precision of the products of features of that dtype."""
    if dtype == "float32" and not tf32:
        return Precision.HIGHEST
    # Of float16 the second product is one of float32 numbers.
    return Precision.DEFAULT if dtype == "bfloat16" else Precision.HIGH
