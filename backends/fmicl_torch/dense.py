"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import torch

from fmicl_core import Pairwise
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
    numbers: tuple[torch.Tensor, torch.Tensor] | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    With numbers, pairs of equal numbers count as 0. With weights, the positives among the pairs:
    the mean over i of weights_i times the sum over j of the scores of the pairs of equal numbers.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None.
        pairwise: the specification; its normalization has been applied.
        skips_diagonal: whether the pairs with i = j are left out.
        numbers: numbers of the rows on the left and on the right; None where all are different.
        weights: (N,) weights of the left rows.
    """
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * (left @ right.T) + c
    if b:
        z = z + b * (left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None, :])
    equal = None if numbers is None else numbers[0][:, None] == numbers[1][None, :]
    if weights is not None:
        if skips_diagonal:
            equal = equal & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        score = pairwise.positive(torch.where(equal, z, pairwise.coincident), TORCH)
        return (weights * torch.where(equal, score, 0.0).sum(dim=1)).mean()
    if equal is not None:  # neither values nor derivatives of pairs that do not count are infinite
        z = torch.where(equal, pairwise.coincident, z)
    excess = pairwise.excess(off_diagonal(z) if skips_diagonal else z, TORCH)
    if equal is not None:
        equal = off_diagonal(equal) if skips_diagonal else equal
        # No gradient is left to mask, and this one is passed on as it is, to the last bit.
        excess = excess - torch.where(equal, excess, 0.0).detach()
    return excess.mean()
