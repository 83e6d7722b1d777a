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
        count: number N of the rows; more of them, zeros, fill the last tile.
        rows: features (N, D), padded to the width of the tiles, in the dtype of the products.
        bias: numbers (N,) to add to z, or none where it has no squared lengths and its constant is
            the similarity's.
        numbers: numbers (N,) of the rows, int32, or None.
    """

    count: int
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
    (n, d), k, tiles = x.shape, len(y), SLAB_TILES
    operand = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    x_factor, y_factor = x.to(operand), y.to(operand)
    most = max(1, SLAB_BYTES // (k * operand.itemsize * tiles.rows)) * tiles.rows
    slab, new = x.new_empty(min(most, n), k, dtype=operand), left.bias.new_empty
    totals, grad_x, mass_x = new(n, dtype=torch.float64), new(n, d), new(n if biased else 0)
    grad_y, mass_y, right_ranges = new(0), new(0), None
    if right.numbers is not None:
        right_ranges = tile_ranges(right.numbers, tiles.columns)
    for start in range(0, n, most):
        some = slice(start, min(start + most, n))
        weights, numbers, ranges = slab[: some.stop - start], None, None
        if left.numbers is not None:
            numbers = left.numbers[some]
            ranges = tile_ranges(numbers, tiles.rows)
        grid = len(weights) // tiles.rows, k // tiles.columns
        sums, masses = new(grid[1], len(weights)), new(grid[1], len(weights) if biased else 0)
        with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
            for edge in (False, True):
                slab_weights[grid](
                    x[some], y, left.bias[some], right.bias, numbers, right.numbers, ranges,
                    right_ranges, weights, sums, masses, left.count - start, right.count,
                    len(weights), k, start, a, c, SKIPS=skips_diagonal, BIAS=biased, EDGE=edge,
                    **constants, num_warps=tiles.warps, num_stages=tiles.stages,
                )  # fmt: skip
        totals[some], mass_x[some] = sums.sum(dim=0, dtype=torch.float64), masses.sum(dim=0)
        grad_x[some] = _product(weights, y_factor)
        if columns:
            update = _product(weights.T, x_factor[some])
            grad_y = grad_y.add_(update) if start else update
            mass = weights.sum(dim=0, dtype=torch.float32) if biased else mass_y
            mass_y = mass_y.add_(mass) if start else mass
    n, k = left.count, right.count
    return totals[:n], grad_x[:n], mass_x[:n], grad_y[:k], mass_y[:k]


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """X @ y in float32."""
    if x.dtype == torch.float32 or x.device.type != "cuda":
        return x.float() @ y.float()
    return torch.mm(x, y, out_dtype=torch.float32)
