"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import torch

from fmicl_core import Pairwise
from fmicl_core.checks import no_negatives
from fmicl_core.objective import Block, negative_pairs
from fmicl_torch.ops import TORCH, off_diagonal

Rows = dict[str, torch.Tensor]


def positive_scores(rows: Rows, pairwise: Pairwise) -> torch.Tensor:
    """Score of every positive pair (x_i, y_i); (N,)."""
    x, y = rows["x"], rows["y"]
    a, b, c = pairwise.coefficients()
    z = a * (x * y).sum(dim=1) + c
    if b:
        z = z + b * (x.square().sum(dim=1) + y.square().sum(dim=1))
    return pairwise.positive(z, TORCH)


def dense_excess(
    rows: Rows, pairwise: Pairwise, blocks: tuple[Block, ...], samples: Rows | None = None
) -> torch.Tensor:
    """Mean excess of the negative pairs; with the limit added it is the mean penalty; scalar.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        pairwise: the specification; its normalization has been applied.
        blocks: of negative pairs.
        samples: number of each row's sample by the same names, where some rows share one: those are
            not negatives of each other. None: only rows i of x and y are of one sample.

    Raises:
        ValueError: all rows are of one sample.
    """
    a, b, c = pairwise.coefficients()
    total = rows["x"].new_zeros(())
    for block in blocks:
        left, right = rows[block.left], rows[block.right]
        z = a * (left @ right.T) + c
        if b:
            z = z + b * (left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None, :])
        if samples is not None:
            z = z[negative_pairs(samples[block.left], samples[block.right])]
            if not len(z):
                raise no_negatives(len(rows["x"]))
        elif block.skips_diagonal:
            z = off_diagonal(z)
        total = total + block.share * pairwise.excess(z, TORCH).mean()
    return total
