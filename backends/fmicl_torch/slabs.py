"""Wide features: the weights of some rows at a time, made by Triton, and products by cuBLAS.

A program of `fused_triton.block_sums` holds the gradient of its rows, so that it can be no wider
than the registers: beyond that scores are computed once for every piece of the width. Here they are
computed once: a slab, the weights of as many rows as `SLAB_BYTES` hold, is written to memory, and
two products take it from there. 6 N^2 D flops a full block, 4 a symmetric one, and no atomics, so
that the gradient is the same in every run. Not yet run on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from fmicl_core.fused import SLAB_BYTES, SLAB_TILES
from fmicl_torch.fused_numbers import tile_ranges


class Side(NamedTuple):
    """The rows on one side of a block, as a launch takes them.

    Args:
        rows: features (N, D), padded to the width of the tiles, in the dtype of the products.
        bias: numbers (N,) to add to z, or none where it has no squared lengths and its constant is
            the similarity's.
        numbers: numbers (N,) of the rows, int32, or None.
    """

    rows: torch.Tensor
    bias: torch.Tensor
    numbers: torch.Tensor | None


def slab_sums(
    left: Side, right: Side, a: float, c: float, skips_diagonal: bool, columns: bool,
    constants: dict[str, Any],
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Totals of the rows of left, their gradient and mass, and those of right if `columns`.

    Equals, of the whole block at once, with the biases of either side,

        value, weight = evaluate(a * left @ right.T + left_bias[:, None] + right_bias + c)
        value.sum(dim=1), weight @ right, weight.sum(dim=1), weight.T @ left, weight.sum(dim=0)

    Gradients are still to be scaled. What is not wanted is empty.

    Args:
        left, right: sides of the block.
        a, c: coefficients of z.
        skips_diagonal: whether the pairs with i = j are left out.
        columns: whether the gradient in right is wanted.
        constants: constants that the routine is compiled for.
    """
    from fmicl_torch.slabs_triton import slab_weights  # imports Triton

    x, y, biased = left.rows, right.rows, left.bias.numel() > 0
    (n, d), k = x.shape, len(y)
    operand = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    x_factor, y_factor = x.to(operand), y.to(operand)
    stride = -(-k // 8) * 8  # rows of a multiple of 16 bytes
    most = max(1, SLAB_BYTES // (stride * operand.itemsize * SLAB_TILES.rows)) * SLAB_TILES.rows
    slab = x.new_empty(min(most, n), stride, dtype=operand)
    tiles = -(-k // SLAB_TILES.columns)
    new = left.bias.new_empty
    totals, masses = new(tiles, n), new(tiles, n if biased else 0)
    grad_x, grad_y, mass_y = new(n, d), new(0), new(0)
    right_ranges = None
    if right.numbers is not None:
        right_ranges = tile_ranges(right.numbers, SLAB_TILES.columns)
    for start in range(0, n, most):
        some = slice(start, min(start + most, n))
        rows, numbers, ranges = x[some], None, None
        if left.numbers is not None:
            numbers = left.numbers[some]
            ranges = tile_ranges(numbers, SLAB_TILES.rows)
        count = len(rows)
        bias = left.bias[some] if biased else left.bias
        sums, mass = new(tiles, count), new(tiles, count)
        grid = -(-count // SLAB_TILES.rows), tiles
        with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
            for edge in (False, True):
                slab_weights[grid](
                    rows, y, bias, right.bias, numbers, right.numbers, ranges, right_ranges, slab,
                    sums, mass, count, k, stride, start, a, c, SKIPS=skips_diagonal, BIAS=biased,
                    EDGE=edge, **constants,
                    num_warps=SLAB_TILES.warps, num_stages=SLAB_TILES.stages,
                )  # fmt: skip
        weights = slab[:count, :k]
        totals[:, some] = sums
        grad_x[some] = _product(weights, y_factor)
        if biased:
            masses[:, some] = mass
        if columns:
            update = _product(weights.T, x_factor[some])
            grad_y = grad_y.add_(update) if start else update
            if biased:
                update = weights.sum(dim=0, dtype=torch.float32)
                mass_y = mass_y.add_(update) if start else update
    mass_x = masses.sum(dim=0)
    return totals, grad_x, mass_x, grad_y, mass_y


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """X @ y in float32."""
    if x.dtype == torch.float32 or x.device.type != "cuda":
        return x.float() @ y.float()
    return torch.mm(x, y, out_dtype=torch.float32)
