"""InfoNCE of a small batch and its gradient, by hand: one exponential of every score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from fmicl_core.pairs import Pairs
from fmicl_torch.inputs import Scalar
from fmicl_torch.ops import TORCH
from fmicl_torch.small import Quick, UnitRows, in_one_node

#: Up to this scale of unit rows e^(s - scale) is in the range of every dtype, whatever s is.
BOUNDED = 40.0


def small_info_nce(
    dense: Any,
    pairs: Pairs,
    factor: Scalar,
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    normalize: bool,
) -> torch.Tensor:
    """InfoNCE of arguments that are small (`fmicl_torch.small.is_small`), without ids.

    Args:
        dense: the same loss as a function of x, y, bank and factor, by autograd.
        pairs: pairs that count.
        factor: factor of the scores, > 0.
        x, y, bank, normalize: as for `info_nce_loss`.
    """
    learned = factor if isinstance(factor, torch.Tensor) else None
    number = float(factor.item() if isinstance(factor, torch.Tensor) else factor)
    quick = partial(_quick, pairs=pairs, normalize=normalize, scale=number)

    def again(x: Any, y: Any, bank: Any, scale: Any) -> tuple[torch.Tensor]:
        return (dense(x, y, bank, number if scale is None else scale),)

    return in_one_node(quick, again, x, y, bank, learned)[0]


def _quick(
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    learned: torch.Tensor | None,
    *,
    wanted: Sequence[bool],
    pairs: Pairs,
    normalize: bool,
    scale: float,
) -> Quick:
    """The loss, and its gradients in x, y, bank and the scale."""
    n = len(x)
    unit = UnitRows.of((x, y) if bank is None else (x, y, bank), normalize, scale)
    rows = unit.rows
    views, of_x, of_y = rows[: 2 * n], rows[:n], rows[n : 2 * n]
    one_square = bank is None and pairs.negatives == "all" and not pairs.symmetric
    crossed = bank is None and (pairs.negatives == "cross" or pairs.symmetric)
    # Anchors, and the rows they are compared with.
    if one_square:
        left, right = views, views
    elif bank is None and pairs.negatives == "within":
        left = right = views.view(2, n, -1)
    else:
        left, right = of_x, of_y if crossed else of_x if bank is None else rows[2 * n :]
    s = left @ right.mT
    # The own pairs (x_i, y_i) stand beside the others; a pair of a row with itself counts nowhere.
    own = s.diagonal(n if one_square else 0).clone() if one_square or crossed else None
    positive = (of_x * of_y).sum(dim=1) if own is None else own
    for offset in (0, n, -n) if one_square else (0,):
        if bank is None:
            s.diagonal(offset, -2, -1).fill_(-torch.inf)
    bounded = normalize and scale <= BOUNDED
    both = pairs.symmetric and crossed
    peak: Any = scale if bounded else s.amax(dim=-1, keepdim=True)
    by_column = None
    if both and not bounded:
        peaks = s.amax(dim=0)
        by_column = (s - peaks).exp_()
    e = s.sub_(peak).exp_()
    total = e.sum(dim=-1)
    rest = peak if bounded else peak.squeeze(-1)
    positive = positive.repeat(2) if one_square else positive
    margins = [total.log() + rest - positive]
    totals = [total]
    if both:
        columns = e if by_column is None else by_column
        totals.append(columns.sum(dim=0))
        margins.append(totals[1].log() + (scale if bounded else peaks) - positive)
    margin = margins[0] if not both else torch.stack(margins)
    loss = (margin if pairs.decoupled else TORCH.softplus(margin)).mean()
    if not any(wanted):
        return (loss,), []
    count = margin.numel()
    less = torch.ones_like(margin) if pairs.decoupled else torch.sigmoid(margin)
    less /= count
    grad = torch.empty_like(rows)
    into = grad[: 2 * n]
    if both:
        q, r = less[0] / totals[0], less[1] / totals[1]
        e = (
            e.mul_(q[:, None] + r)
            if by_column is None
            else e.mul_(q[:, None]).addcmul_(by_column, r)
        )
        less = less.sum(dim=0)
    elif left is right:
        q = less / total
        if bounded:  # then e is symmetric
            e *= q.unsqueeze(-1) + q.unsqueeze(-2)
        else:
            e = e.mul_(q.unsqueeze(-1))
            e = e + e.mT
    else:
        e *= (less / total)[:, None]
    if one_square:
        pull = -(less[:n] + less[n:])
        e.diagonal(n).copy_(pull)
        e.diagonal(-n).copy_(pull)
        torch.mm(e, views, out=into)
    elif crossed:
        e.diagonal().copy_(less).neg_()
        torch.mm(e, of_y, out=grad[:n])
        torch.mm(e.T, of_x, out=into[n:])
    else:
        pull = -(less if less.ndim == 1 else less.sum(dim=0))[:, None]
        torch.mul(of_y, pull, out=grad[:n])
        torch.mul(of_x, pull, out=into[n:])
        if left.ndim == 3:
            into.view(2, n, -1).baddbmm_(e, left)
        else:
            grad[:n].addmm_(e, right)
            if bank is not None:
                torch.mm(e.T, of_x, out=grad[2 * n :])
    in_scale = unit.back(grad, wanted[3])
    parts = [grad[:n], into[n:], grad[2 * n :]]
    grads = [part if want else None for part, want in zip(parts, wanted[:3], strict=True)]
    return (loss,), [*grads, in_scale]
