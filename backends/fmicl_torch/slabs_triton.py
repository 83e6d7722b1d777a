"""The Triton routine of `fmicl_torch.slabs`: the weights of some rows of a block.

Imported only where it is used, because it needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmicl_torch.fused_triton import compound, log1p, places, product


@triton.jit
def slab_weights(  # type: ignore[no-untyped-def]
    left, right, left_bias, right_bias, left_numbers, right_numbers, left_ranges, right_ranges,
    weights, totals, masses, n, k, height, stride, first, a, c,
    EVALUATE: tl.constexpr, SUMS: tl.constexpr, PAIRS: tl.constexpr, SKIPS: tl.constexpr,
    BIAS: tl.constexpr, EDGE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, D: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Weights of the pairs (left_i, right_j), one program a tile of ROWS x COLS of them.

    z = a (left @ right.T) + left_bias[:, None] + right_bias + c        # biases only with BIAS
    addend, factor, weights = EVALUATE(z)                               # 0 for pairs left out
    totals = (addend + log1p(factor)).sum(dim=1)                        # or one of them, by SUMS
    masses = weights.sum(dim=1)                                         # with BIAS

    A launch makes the tiles in which pairs may be left out, with EDGE, or all others: a branch
    would have both outcomes in registers, too many for two programs at a time.

    Args:
        left, right: features (n, D) and (k, D), contiguous, in the dtype of the product; more rows,
            zeros, fill the last tile, here and in all others.
        left_bias, right_bias: numbers (n,) and (k,) to add to z; float32, as are all sums.
        left_numbers, right_numbers, left_ranges, right_ranges: arguments of
            `fused_triton.block_sums`.
        weights: weights (height, stride), n and k with the rows that fill a tile, in OPERAND.
        totals, masses: sums of a row's values and weights, (columns of tiles, height).
        first: number that the first row of left has among the rows of right, with SKIPS.
        PAIRS: which pairs count by their numbers: "all" or "different".
        SKIPS: whether the pair of a row with itself is left out.
        DEPTH: columns of the features that a step of the product takes; D is a multiple.
        SUMS, PRECISION, WIDEN: arguments of `fused_triton.block_sums`.
    """
    TERMS: tl.constexpr = min(16, COLS // 8)  # a thread of Hopper's has every 8th column
    block, column = tl.program_id(0), tl.program_id(1)
    edge = (column * COLS + COLS > k) | (block * ROWS + ROWS > n)
    if SKIPS:
        start = first + block * ROWS
        edge = edge | ((column * COLS < start + ROWS) & (column * COLS + COLS > start))
    if PAIRS != "all":
        least, largest = left_ranges + block, left_ranges + tl.num_programs(0) + block
        tile = right_ranges + column
        meets = (tl.load(tile) <= tl.load(largest)) & (
            tl.load(tile + tl.num_programs(1)) >= tl.load(least)
        )
        edge = edge | meets
    if edge != EDGE:
        return
    rows = block * ROWS + tl.arange(0, ROWS)
    cols = column * COLS + tl.arange(0, COLS)
    z = tl.zeros((ROWS, COLS), tl.float32)
    for piece in range(D // DEPTH):
        x = tl.load(places(left, block * ROWS, ROWS, piece * DEPTH, DEPTH, D))
        y = tl.load(places(right, column * COLS, COLS, piece * DEPTH, DEPTH, D))
        z = product(x, tl.trans(y), z, PRECISION, WIDEN)
    z = a * z + c
    if BIAS:
        z += tl.load(left_bias + rows)[:, None]
        z += tl.load(right_bias + cols)[None, :]
    addend, factor, weight = EVALUATE(z)
    if EDGE:
        counts = (rows < n)[:, None] & (cols < k)[None, :]
        if SKIPS:
            counts = counts & ((rows + first)[:, None] != cols[None, :])
        if PAIRS == "different":
            numbers = tl.load(left_numbers + rows)
            others = tl.load(right_numbers + cols)
            counts = counts & (numbers[:, None] != others[None, :])
        if SUMS != "factors":
            addend = tl.where(counts, addend, 0.0)
        if SUMS != "addends":
            factor = tl.where(counts, factor, 0.0)
        weight = tl.where(counts, weight, 0.0)
    total = tl.zeros((ROWS,), tl.float32)
    if SUMS != "factors":
        total += tl.sum(addend, 1)
    if SUMS != "addends":  # logarithms cost much, so they are taken of products
        tall = tl.reshape(factor, (ROWS, TERMS, COLS // TERMS))
        total += tl.sum(log1p(tl.reduce(tall, 1, compound)), 1)
    weight = weight.to(OPERAND)
    here = weights + rows.to(tl.int64)[:, None] * stride + cols[None, :]
    tl.store(here, weight)
    line = column.to(tl.int64) * height + rows
    tl.store(totals + line, total)
    if BIAS:
        tl.store(masses + line, tl.sum(weight.to(tl.float32), 1))
