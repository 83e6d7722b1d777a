"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import torch

from fmicl_core import Pairwise
from fmicl_core.checks import no_negatives
from fmicl_core.objective import negative_pairs
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


def dense_block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    samples: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None.
        pairwise: the specification; its normalization has been applied.
        skips_diagonal: whether the pairs with i = j are left out.
        samples: number of each left and of each right row's sample, where some rows share one:
            those are not negatives of each other. None: `skips_diagonal` says which are.

    Raises:
        ValueError: all rows are of one sample.
    """
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * (left @ right.T) + c
    if b:
        z = z + b * (left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None, :])
    if samples is not None:
        z = z[negative_pairs(*samples)]
        if not len(z):
            raise no_negatives(len(left))
    elif skips_diagonal:
        z = off_diagonal(z)
    return pairwise.excess(z, TORCH).mean()
