"""The Triton routine of `fmicl_torch.slabs`: the weights of some rows of a block.

Imported only where it is used, because it needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmicl_torch.fused_triton import load, product


@triton.jit
def slab_weights(  # type: ignore[no-untyped-def]
    left, right, left_bias, right_bias, left_numbers, right_numbers, weights, totals, masses,
    n, k, stride, first, a, c,
    EVALUATE: tl.constexpr, PAIRS: tl.constexpr, SKIPS: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, D: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Weights of the pairs (left_i, right_j), one program a tile of ROWS x COLS of them.

    z = a (left @ right.T) + left_bias[:, None] + right_bias + c        # biases only with BIAS
    value, weights = EVALUATE(z)                                        # 0 for pairs left out
    totals = value.sum(dim=1)                                           # by columns of tiles
    masses = weights.sum(dim=1)                                         # with BIAS

    Args:
        left, right: features (n, D) and (k, D), contiguous, in the dtype of the product.
        left_bias, right_bias: numbers (n,) and (k,) to add to z; float32, as are all sums.
        left_numbers, right_numbers: numbers (n,) and (k,) of the rows, int32; None with PAIRS
            "all".
        weights: weights (n, stride), stride >= k, in OPERAND.
        totals, masses: sums of a row's values and weights, (columns of tiles, n).
        first: number that the first row of left has among the rows of right, with SKIPS.
        PAIRS: which pairs count by their numbers: "all" or "different".
        SKIPS: whether the pair of a row with itself is left out.
        DEPTH: columns of the features that a step of the product takes; D is a multiple.
        PRECISION, WIDEN: arguments of `fused_triton.block_sums`.
    """
    block, column = tl.program_id(0), tl.program_id(1)
    rows = block * ROWS + tl.arange(0, ROWS)
    cols = column * COLS + tl.arange(0, COLS)
    z = tl.zeros((ROWS, COLS), tl.float32)
    for piece in range(D // DEPTH):
        some = piece * DEPTH + tl.arange(0, DEPTH)
        x = load(left, rows, some, n, D)
        y = load(right, cols, some, k, D)
        z = product(x, tl.trans(y), z, PRECISION, WIDEN)
    z = a * z + c
    if BIAS:
        z += tl.load(left_bias + rows, mask=rows < n, other=0.0)[:, None]
        z += tl.load(right_bias + cols, mask=cols < k, other=0.0)[None, :]
    value, weight = EVALUATE(z)
    counts = (rows < n)[:, None] & (cols < k)[None, :]
    if SKIPS:
        counts = counts & ((rows + first)[:, None] != cols[None, :])
    if PAIRS == "different":
        numbers = tl.load(left_numbers + rows, mask=rows < n, other=0)
        others = tl.load(right_numbers + cols, mask=cols < k, other=0)
        counts = counts & (numbers[:, None] != others[None, :])
    value = tl.where(counts, value, 0.0)
    weight = tl.where(counts, weight, 0.0).to(OPERAND)
    inside = (rows < n)[:, None] & (cols < stride)[None, :]
    tl.store(weights + rows.to(tl.int64)[:, None] * stride + cols[None, :], weight, inside)
    line = column.to(tl.int64) * n + rows
    tl.store(totals + line, tl.sum(value, 1), rows < n)
    if BIAS:
        tl.store(masses + line, tl.sum(weight.to(tl.float32), 1), rows < n)
