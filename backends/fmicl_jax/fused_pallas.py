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

from fmicl_core import Pairwise
from fmicl_core.fused import Tiles, parts_for, tiles_for
from fmicl_core.ops import Ops
from fmicl_jax.ops import JAX, square_lengths
from fmicl_jax.plan import Fused, Gradients, Plan

#: The functions of the specification for a single pair, whose sum is itself.
ONE_PAIR = Ops(
    **{name: getattr(JAX, name) for name in Ops.__dataclass_fields__}
    | {"name": "pallas", "expm1": jnp.expm1, "sum": lambda x: x, "sum_log": jnp.log}
)


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

    @property
    def row_blocks(self) -> int:
        """Number of programs that share a part of the columns and a chunk of the width."""
        return -(-self.n // self.tiles.rows)

    @property
    def span(self) -> int:
        """Number of columns in a part."""
        return -(-self.k // (self.tiles.columns * self.parts)) * self.tiles.columns


def fused_mean_and_gradients(
    left: jax.Array, right: jax.Array | None, plan: Plan, wanted: tuple[bool, bool]
) -> tuple[jax.Array, Gradients]:
    """Mean excess and the wanted gradients; equals `fmicl_jax.tiled.sweep`.

    Every program owns rows of one gradient, so that nothing is added in an order that could differ
    between runs. It takes a launch for either side, the scores computed twice: 8 N^2 D flops for a
    full block in place of 6, 4 N^2 D for a symmetric one in place of 3.
    """
    a, b, _ = plan.pairwise.coefficients()
    symmetric = right is None
    others = left if right is None else right
    pairs = len(left) * (len(others) - plan.skips_diagonal)
    # Inside jax.shard_map all that goes into the routine must vary over the same mesh axes;
    # features that are not finite have no loss anyway.
    zero = 0.0 * (left[0, 0] + others[0, 0])
    left, others = left + zero, others + zero

    def sums(rows: jax.Array, columns: jax.Array, grad: bool) -> Any:
        return block_sums(rows, columns, plan, grad, triangle=symmetric and not grad)

    def gradient(rows: jax.Array, products: jax.Array, mass: jax.Array | None) -> jax.Array:
        # In a symmetric block (i, j) and (j, i) both count.
        scale = (2.0 if symmetric else 1.0) / pairs
        whole = a * products if mass is None else a * products + 2.0 * b * mass[:, None] * rows
        return scale * whole

    total, products, mass = sums(left, others, wanted[0])
    grad_left = gradient(left, products, mass) if wanted[0] else None
    grad_right = None
    if wanted[1] and not symmetric:
        _, products, mass = sums(others, left, True)
        grad_right = gradient(others, products, mass)
    return total / pairs, (grad_left, grad_right)


def block_sums(
    left: jax.Array, right: jax.Array, plan: Plan, grad: bool, triangle: bool
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Sums over the pairs (left_i, right_j) in one launch, for the gradient in left alone.

    z = a (left @ right.T) + b (|left|^2[:, None] + |right|^2) + c    # product in `Fused.dtype`
    excess, weight = evaluate(z)                                      # 0 for pairs left out
    return excess.sum(), weight @ right, weight.sum(axis=1)           # None without `grad`

    Args:
        left: (N, D) features, float32.
        right: (K, D) features, float32.
        plan: settings of the sweep.
        grad: whether the last two are wanted. They are still to be scaled; the last is None too
            where z has no squared lengths.
        triangle: whether right is left and only the tiles with i < j are visited, and count twice.
    """
    (n, d), k, fused = left.shape, len(right), plan.fused
    assert fused is not None
    tiles = tiles_for(d, fused.dtype, fused.tf32, fused.memory, atomic=False)
    chunks = -(-d // tiles.width)
    parts = parts_for(fused.processors, n, k, chunks, tiles)
    program = Program(plan, fused, n, k, tiles, chunks, parts, grad, triangle)
    b = plan.pairwise.coefficients()[1]
    inputs = []
    for side, size in ((left, tiles.rows), (right, tiles.columns)):
        missing = (0, -len(side) % size), (0, -d % tiles.width)
        inputs.append(jnp.pad(side.astype(fused.dtype), missing))
        if b:
            inputs.append(jnp.pad(b * square_lengths(side), missing[0]))
    rows, width = program.row_blocks * tiles.rows, chunks * tiles.width
    shapes: list[tuple[int, ...]] = [(parts, rows)]
    if grad:
        shapes += [(parts, rows, width), (parts, rows)] if b else [(parts, rows, width)]

    def like_inputs(x: jax.Array) -> list[jax.Array]:  # which may vary over axes of a mesh
        return [jnp.broadcast_to(0.0 * x[0, 0].astype(jnp.float32), shape) for shape in shapes]

    sums = pl.pallas_call(
        partial(_program, program),
        out_shape=jax.eval_shape(like_inputs, inputs[0]),
        # One axis: jax.vmap adds another, and a GPU has three.
        grid=(program.row_blocks * parts * chunks,),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=fused.interpret,
        name="fmicl_block_sums",
    )(*inputs)
    total = (2.0 if triangle else 1.0) * sums[0][:, :n].sum(axis=0).sum()
    products = sums[1].sum(axis=0)[:n, :d] if grad else None
    return total, products, sums[2].sum(axis=0)[:n] if grad and b else None


def _program(program: Program, *refs: Any) -> None:
    """Sums of ROWS rows over one part of the columns; its chunk of the width of the gradient."""
    tiles, fused = program.tiles, program.fused
    a, b, c = program.plan.pairwise.coefficients()
    refs_in, refs_out = refs[: 4 if b else 2], refs[4 if b else 2 :]
    left, right, *biases = (*refs_in[::2], *refs_in[1::2]) if b else refs_in
    place = pl.program_id(0)
    block, place = place % program.row_blocks, place // program.row_blocks
    part, chunk = place % program.parts, place // program.parts
    rows = pl.ds(block * tiles.rows, tiles.rows)
    own = pl.ds(chunk * tiles.width, tiles.width)
    dot = partial(plgpu.dot, precision=_precision(fused.dtype, fused.tf32))
    # Weights can leave the range of float16; tf32 has its digits and the range of float32.
    operand = jnp.bfloat16 if fused.dtype == "bfloat16" else jnp.float32
    mine = left[rows, own]

    def scores(columns: Any, theirs: jax.Array) -> jax.Array:
        def add_piece(i: jax.Array, z: jax.Array) -> jax.Array:
            some = pl.ds(i * tiles.width, tiles.width)
            return z + dot(left[rows, some], right[columns, some], trans_b=True)

        if program.chunks == 1:
            z = dot(mine, theirs, trans_b=True)
        else:  # no loop of Python's: Pallas would keep all of the rows in registers
            nothing = jnp.zeros((tiles.rows, tiles.columns), jnp.float32)
            z = jax.lax.fori_loop(0, program.chunks, add_piece, nothing)
        z = a * z + c
        return z + biases[0][rows][:, None] + biases[1][columns][None, :] if b else z

    def masked(start: jax.Array, excess: jax.Array, weight: jax.Array) -> Any:
        row = block * tiles.rows + jax.lax.broadcasted_iota(jnp.int32, excess.shape, 0)
        column = start + jax.lax.broadcasted_iota(jnp.int32, excess.shape, 1)
        counts = column < program.k  # rows beyond the last are dropped by the caller
        if program.triangle:
            counts &= row < column
        elif program.plan.skips_diagonal:
            counts &= row != column
        return jnp.where(counts, excess, 0.0), jnp.where(counts, weight, 0.0)

    def add_tile(turn: jax.Array, sums: Any) -> Any:
        total, mass, products = sums
        start = first + turn * tiles.columns
        columns = pl.ds(start, tiles.columns)
        theirs = right[columns, own]
        excess, weight = evaluate(program.plan.pairwise, scores(columns, theirs))
        bottom, end = (block + 1) * tiles.rows, start + tiles.columns
        edge = end > program.k
        if program.plan.skips_diagonal:
            edge |= (start < bottom) & (end > block * tiles.rows)
        excess, weight = jax.lax.cond(
            edge, partial(masked, start), lambda *unchanged: unchanged, excess, weight
        )
        total += excess.sum(axis=1)
        if program.grad:
            weight = weight.astype(operand)
            products += dot(weight, theirs.astype(operand))
            # Of the same rounded weights, because the two parts of a gradient cancel.
            mass = mass + weight.astype(jnp.float32).sum(axis=1) if b else None
        return total, mass, products

    first = part * program.span
    last = jnp.minimum(first + program.span, program.k)
    if program.triangle:
        first = jnp.maximum(first, block * tiles.rows // tiles.columns * tiles.columns)
    count = (jnp.maximum(last - first, 0) + tiles.columns - 1) // tiles.columns
    nothing = jnp.zeros(tiles.rows, jnp.float32)
    products = jnp.zeros((tiles.rows, tiles.width), jnp.float32)
    total, mass, products = jax.lax.fori_loop(
        0, count, add_tile,
        (nothing, nothing if program.grad and b else None, products if program.grad else None),
    )  # fmt: skip
    if program.grad:
        refs_out[1][part, rows, own] = products

    @pl.when(chunk == 0)  # those of the other chunks are the same
    def _() -> None:
        refs_out[0][part, rows] = total
        if program.grad and b:
            refs_out[2][part, rows] = mass


def _precision(dtype: str, tf32: bool) -> Precision:
    if dtype == "float32" and not tf32:
        return Precision.HIGHEST
    # Of float16 the second product is one of float32 numbers.
    return Precision.DEFAULT if dtype == "bfloat16" else Precision.HIGH


def evaluate(pairwise: Pairwise, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Excess and slope of every pair, from the formulas of one."""

    def one_pair(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pairwise.excess_total_and_slope(z, ONE_PAIR)

    excess, slope = jax.vmap(jax.vmap(one_pair))(z)
    return excess, slope


def lower_formulas(pairwise: Pairwise) -> None:
    """Have Pallas write the formulas of a tile in Triton; raises whatever it or they raise."""

    def program(given: Any, excess: Any, slope: Any) -> None:
        excess[...], slope[...] = evaluate(pairwise, given[...])

    def call(given: jax.Array) -> Any:
        shapes = jax.eval_shape(lambda x: (x, x), given)  # right inside jax.shard_map as well
        return pl.pallas_call(program, shapes, compiler_params=plgpu.CompilerParams())(given)

    tile = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    jax.jit(call).trace(tile).lower(lowering_platforms=("cuda",))
