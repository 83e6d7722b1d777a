"""The plain loss: every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import torch

from fmicl_core import Pairwise
from fmicl_torch.ops import TORCH, off_diagonal

Rows = dict[str, torch.Tensor]
#: Sides of the rows on the left and on the right of a block, equal where their ids are.
Sides = tuple[torch.Tensor, torch.Tensor]


def positive_scores(
    rows: Rows, pairwise: Pairwise, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Score of every positive pair (x_i, y_i); (N,). `bias` as for `dense_block_mean`."""
    x, y = rows["x"], rows["y"]
    a, b, c = pairwise.coefficients()
    z = a * (x * y).sum(dim=1) + (c if bias is None else bias)
    if b:
        z = z + b * (x.square().sum(dim=1) + y.square().sum(dim=1))
    return pairwise.positive(z, TORCH)


def dense_block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Sides | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None.
        pairwise: the specification; its normalization has been applied.
        skips_diagonal: whether the pairs with i = j are left out.
        numbers: numbers of the rows on the left and on the right; pairs with equal ones count as 0.
            None: all pairs count.
        bias: constant of z in place of that of the similarity, a scalar; or None.
    """
    z = _pairs(left, right, pairwise, bias)
    if numbers is None:
        return pairwise.excess(off_diagonal(z) if skips_diagonal else z, TORCH).mean()
    equal = numbers[0][:, None] == numbers[1][None, :]
    # Neither a value nor a derivative of a pair that does not count may be infinite.
    z = torch.where(equal, pairwise.coincident, z)
    if skips_diagonal:
        z, equal = off_diagonal(z), off_diagonal(equal)
    excess = pairwise.excess(z, TORCH)
    # The gradient, which z masks, is passed on as it is: without equal ids no bit of it changes.
    return (excess - torch.where(equal, excess, 0.0).detach()).mean()


def dense_positive_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Sides,
    weights: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over i of weights_i times the sum of the scores of (left_i, right_j) with equal numbers.

    Args:
        left, right, pairwise, skips_diagonal, numbers, bias: as for `dense_block_mean`.
        weights: (N,) weights of the left rows.
    """
    z = _pairs(left, right, pairwise, bias)
    equal = numbers[0][:, None] == numbers[1][None, :]
    if skips_diagonal:
        equal = equal & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    score = pairwise.positive(torch.where(equal, z, pairwise.coincident), TORCH)
    return (weights * torch.where(equal, score, 0.0).sum(dim=1)).mean()


def _pairs(
    left: torch.Tensor,
    right: torch.Tensor | None,
    pairwise: Pairwise,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """The number z of every pair, (N, K)."""
    a, b, c = pairwise.coefficients()
    right = left if right is None else right
    z = a * (left @ right.T) + (c if bias is None else bias)
    if b:
        z = z + b * (left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None, :])
    return z
