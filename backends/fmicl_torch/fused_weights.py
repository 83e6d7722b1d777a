"""The fused routine for wide features: it writes the weights of a square of pairs down.

Where all of a row no longer fits a program, scores would be computed anew for each of its pieces,
and features read anew for each tile. So one routine computes scores, sums and weights of a square
of pairs, and cuBLAS the products of the weights: 6 N^2 D flops, or 3 of a symmetric block, no
atomics, and memory for one square. It has been compiled for GPUs and
run in Triton's interpreter, but not yet run on a GPU.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from fmicl_core.fused import Tiles
from fmicl_torch.fused_launch import Launch, Side, constants

#: Rows and columns of the square of pairs whose weights are in memory at a time, 128 MiB. In
#: smaller ones Python, with some ten calls a square, would take longer than the GPU.
SIDE = 8192


def has_wide_products() -> bool:
    """Whether PyTorch's products of bfloat16 numbers can be float32, as they can from 2.8 on."""
    return hasattr(torch.ops.aten.mm, "dtype")


def launch_weights(
    left: Side, right: Side, launch: Launch, tiles: Tiles, grad: bool, columns: bool
) -> tuple[torch.Tensor, ...]:
    """Total, gradient and mass of left, those of right too if `columns` or it is left.

    Args:
        left: rows on the left.
        right: rows on the right; the same object where the block is symmetric.
        launch: settings of the block; its pairs are "all" or "different".
        tiles: tiles of a program, whose width is a piece of the first product.
        grad: whether gradients are wanted at all.
        columns: whether the gradient in right is wanted.
    """
    from fmicl_torch import fused_triton as triton  # imports Triton

    x, y, symmetric, biased = left.rows, right.rows, right is left, launch.bias != "none"
    unit = max(tiles.rows, tiles.columns)
    size = max(unit, SIDE // unit * unit)
    nothing = left.bias.new_empty(0)
    total = left.bias.new_zeros((), dtype=torch.float64)
    grad_x = left.bias.new_zeros(x.shape) if grad else nothing
    mass_x = left.bias.new_zeros(len(x)) if grad and biased else nothing
    grad_y, mass_y = grad_x, mass_x
    columns = grad and (columns or symmetric)
    if columns and not symmetric:
        grad_y = left.bias.new_zeros(y.shape)
        mass_y = left.bias.new_zeros(len(y)) if launch.bias == "rows" else nothing
    weights = x.new_empty(min(size, len(x)), min(size, len(y))) if grad else nothing
    a, _, c = (launch.formulas.unit * number for number in launch.pairwise.coefficients())
    fixed = constants(launch.pairwise, launch.pairs, x.dtype, x.shape[1] // tiles.width, tiles)
    for i in range(0, left.length, size):
        for j in range(i if symmetric else 0, right.length, size):
            rows, cols = slice(i, min(i + size, len(x))), slice(j, min(j + size, len(y)))
            grid = (rows.stop - i) // tiles.rows, (cols.stop - j) // tiles.columns
            totals = left.bias.new_empty(grid[1], rows.stop - i)
            with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
                triton.block_weights[grid](
                    x, y, left.bias, right.bias, left.numbers, right.numbers, totals, weights,
                    left.length, right.length, i, j, weights.stride(0), a, c, **fixed,
                    TRIANGLE=symmetric and i == j, SKIPS=launch.skips_diagonal, GRAD=grad,
                    BIAS=launch.bias, num_warps=tiles.warps, num_stages=tiles.stages,
                    maxnreg=tiles.registers,
                )  # fmt: skip
            total += totals.sum(dtype=torch.float64)
            if grad:
                square = weights[: rows.stop - i, : cols.stop - j]
                grad_x[rows] += _product(square, y[cols])
                if columns:
                    grad_y[cols] += _product(square.T, x[rows])
                if biased:  # of the same rounded weights, as the two parts of a gradient cancel
                    mass_x[rows] += square.sum(dim=1, dtype=torch.float32)
                    if columns and launch.bias == "rows":
                        mass_y[cols] += square.sum(dim=0, dtype=torch.float32)
    if symmetric:  # rows alone know of one order of a pair
        total = 2.0 * total
        mass_x = 2.0 * mass_x if launch.bias == "constant" else mass_x
    n, k = left.length, right.length
    return total, grad_x[:n], mass_x[:n], grad_y[:k], mass_y[:k]


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """X @ y in float32."""
    if x.device.type == "cuda":
        product: torch.Tensor = torch.ops.aten.mm.dtype(x, y, torch.float32)
        return product
    return x.float() @ y.float()
