"""Where pairs of rows with equal numbers are, for `fmicl_torch.fused`; the host reads no number.

Rows are best sorted by their numbers, so that equal ones meet in few tiles; nothing relies on it.
"""

from __future__ import annotations

import torch


def tile_ranges(numbers: torch.Tensor, size: int) -> torch.Tensor:
    """Least and largest number in each tile of so many rows, (2, tiles)."""
    tiles = -(-len(numbers) // size)
    # The last row again fills the last tile.
    at = torch.arange(tiles * size, device=numbers.device).clamp_(max=len(numbers) - 1)
    return torch.stack(torch.aminmax(numbers[at].view(tiles, size), dim=1))


def visited_tiles(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """First, and one past the last, tile of columns that may share a number; (2, tiles of rows).

    Args:
        rows: ranges of the numbers in the tiles of rows, (2, tiles of rows).
        columns: ranges of the numbers in the tiles of columns, (2, tiles of columns).
    """
    largest_so_far = columns[1].cummax(dim=0).values
    least_from_here = columns[0].flip(0).cummin(dim=0).values.flip(0)
    first = torch.searchsorted(largest_so_far, rows[0], out_int32=True)
    past = torch.searchsorted(least_from_here, rows[1], right=True, out_int32=True)
    return torch.stack((first, past))


def weights_by_number(
    others: torch.Tensor, numbers: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The weight of any row with the same number; that of some other row where there is none.

    Args:
        others: numbers of the rows whose weights are looked up, (K,).
        numbers: numbers of the rows with weights, (N,).
        weights: weights of these rows, (N,), equal for equal numbers.
    """
    ordered, order = numbers.sort()
    at = torch.searchsorted(ordered, others).clamp_(max=len(numbers) - 1)
    return weights[order[at]]
