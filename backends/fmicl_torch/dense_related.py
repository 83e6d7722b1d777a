"""InfoNCE of every pair at once, differentiable to any order."""

from __future__ import annotations

import torch

from fmicl_core.pairs import Pairs
from fmicl_core.related import SoftmaxBlock, info_nce_anchors, info_nce_blocks
from fmicl_torch.dense import Rows
from fmicl_torch.ids import Numbers, sides_of
from fmicl_torch.ops import TORCH


def dense_info_nce(rows: Rows, pairs: Pairs, numbers: Numbers | None) -> torch.Tensor:
    """InfoNCE of the pairs (x_i, y_i); of a single array, the mean of log(Z) over the anchors.

    Z is the sum of e^s over all positives and all negatives of the anchor, and if decoupled over
    its negatives alone. An anchor of a single array without a positive counts as 0. What other
    positives pull is in `fmicl_torch.info_nce`.

    Args:
        rows: features by the names "x" (N, D) and, if given, "y" (N, D) and "bank" (K, D), whose
            products are the scores.
        pairs: pairs that count.
        numbers: numbers of the rows; None without ids.
    """
    names = {} if numbers is None else numbers.by_name
    anchors = [name for name, _ in info_nce_anchors(pairs)]
    logits: dict[str, list[torch.Tensor]] = {name: [] for name in anchors}
    equal: dict[str, list[torch.Tensor]] = {name: [] for name in anchors}
    for softmax in info_nce_blocks(pairs, numbers is not None):
        block, kept = softmax.block, equal if softmax.which == "equal" else logits
        s = rows[block.left] @ rows[block.right].T
        s = s.masked_fill(_left_out(s, softmax, names), -torch.inf)
        kept[block.left].append(s)
        if softmax.both and not block.symmetric:
            kept[block.right].append(s.T)
    every = {name: torch.logsumexp(_side_by_side(logits[name]), dim=1) for name in anchors}
    for name in anchors if equal[anchors[0]] else ():
        more = torch.logsumexp(_side_by_side(equal[name]), dim=1)
        every[name] = torch.logsumexp(torch.stack([every[name], more]), dim=0)
    if pairs.single and numbers is not None:
        losses = [torch.where(numbers.same > 1, every["x"], 0.0)]
    else:
        positive = (rows["x"] * rows["y"]).sum(dim=1)
        margins = [e - positive for e in every.values()]
        # The same as log-sum-exp of all less s+, but where the loss is small nothing cancels.
        losses = margins if pairs.decoupled else [TORCH.softplus(m) for m in margins]
    return torch.stack([loss.mean() for loss in losses]).mean()


def _side_by_side(logits: list[torch.Tensor]) -> torch.Tensor:
    return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)


def _left_out(s: torch.Tensor, softmax: SoftmaxBlock, numbers: Rows) -> torch.Tensor:
    """Which pairs of a block stand in no softmax."""
    out = torch.zeros_like(s, dtype=torch.bool)
    sides = sides_of(numbers, softmax.block)
    if sides is not None and softmax.which != "every":
        out = (sides[0][:, None] == sides[1][None, :]) == (softmax.which == "different")
    if softmax.block.skips_diagonal:
        out = out | torch.eye(len(s), dtype=torch.bool, device=s.device)
    return out
