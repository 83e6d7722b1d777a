"""f-MICL of a small batch, and its gradient, by hand: both terms of the loss in one node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fmicl_core import Pairwise
from fmicl_core.ops import LOGIT_BOUND
from fmicl_core.pairs import Block
from fmicl_torch.inputs import Auto
from fmicl_torch.ops import TORCH
from fmicl_torch.small import Quick, UnitRows, in_one_node


class SmallPairs(NamedTuple):
    """What a small f-MICL loss is, beside its features.

    Args:
        pairwise: the specification; no lengths of rows are in its z (b = 0).
        blocks: blocks of the negative pairs.
        alpha: weight of the penalty, or how it is found.
        scale: factor of the products, whose root the rows carry.
        bias: constant of z, or None for that of the similarity.
    """

    pairwise: Pairwise
    blocks: tuple[Block, ...]
    alpha: float | Auto
    scale: float
    bias: float | None

    def terms(
        self,
        dense: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        bank: torch.Tensor | None,
        scalars: Sequence[Any],
    ) -> tuple[torch.Tensor, ...]:
        """Loss, score, penalty and weight of small features (`fmicl_torch.small.is_small`).

        Args:
            dense: the same as a function of x, y, bank, alpha, scale and bias, by autograd.
            x, y, bank: as for `fmicl_loss`.
            scalars: alpha, scale and bias as they were given.
        """
        learned = [v if isinstance(v, torch.Tensor) else None for v in scalars]

        def again(x: Any, y: Any, bank: Any, *tensors: Any) -> tuple[torch.Tensor, ...]:
            now = [v if t is None else t for v, t in zip(scalars, tensors, strict=True)]
            return dense(x, y, bank, *now)  # type: ignore[no-any-return]

        return in_one_node(self._quick, again, x, y, bank, *learned)

    def _quick(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        bank: torch.Tensor | None,
        *learned: torch.Tensor | None,
        wanted: Sequence[bool],
    ) -> Quick:
        """The terms; the loss' gradients in x, y, bank, alpha, scale and bias."""
        n, grad = len(x), any(wanted)
        sides = (x, y) if bank is None else (x, y, bank)
        unit = UnitRows.of(sides, self.pairwise.normalize, self.scale)
        pull = torch.empty_like(unit.rows) if grad else unit.rows
        rows, pulls = (
            {"x": v[:n], "y": v[n : 2 * n], "bank": v[2 * n :]} for v in (unit.rows, pull)
        )
        a, _, c = self.pairwise.coefficients()
        constant = pull.new_full((1,), c if self.bias is None else self.bias)
        crossed = self.blocks[0].left != self.blocks[0].right == "y"  # it alone has (x_i, y_i)
        if not crossed:
            positive = (rows["x"] * rows["y"]).sum(dim=1).mul_(a).add_(constant)
            score, gain = self._score(positive, grad)
            if gain is not None:
                gain = gain[:, None]
                torch.mul(rows["y"], gain, out=pulls["x"])
                torch.mul(rows["x"], gain, out=pulls["y"])
        if bank is not None and grad:
            pulls["bank"].zero_()
        means, ratios, slopes, in_bias = [], [], [], 0.0
        for block in self.blocks:
            left, right = rows[block.left], rows[block.right]
            z = torch.addmm(constant, left, right.T, alpha=a)
            if crossed:
                score, gain = self._score(z.diagonal().clone(), grad)
            share = block.share / (z.numel() - n * block.skips_diagonal)
            if isinstance(self.alpha, Auto) and self.pairwise.ratio is not self.pairwise:
                ratios.append(self._ratio(z, block.skips_diagonal) * share)
            total, slope = self._sum(z, block.skips_diagonal, grad)
            means.append(total * share)
            slopes.append((slope, a * share))
        penalty = sum(means[1:], means[0])
        alpha: float | torch.Tensor
        if isinstance(self.alpha, Auto):
            alpha = self.alpha.over(sum(ratios[1:], ratios[0]) if ratios else penalty)
        else:
            alpha = self.alpha
        penalty = penalty + self.pairwise.limit if self.pairwise.limit else penalty
        for block, (slope, factor) in zip(self.blocks, slopes, strict=True):
            if slope is None:
                break
            left, right = rows[block.left], rows[block.right]
            slope *= alpha * factor
            in_bias += slope.sum().item() / a if wanted[5] else 0.0
            if crossed and gain is not None:
                slope.diagonal().copy_(gain)
                torch.mm(slope, right, out=pulls["x"])
                torch.mm(slope.T, left, out=pulls["y"])
                continue
            pulls[block.left].addmm_(slope, right, alpha=2.0 if block.symmetric else 1.0)
            if not block.symmetric:
                pulls[block.right].addmm_(slope.T, left)
        weight = alpha if isinstance(alpha, torch.Tensor) else score.new_full((), alpha)
        outputs = alpha * penalty - score, score, penalty, weight
        if not grad:
            return outputs, []
        if wanted[5] and gain is not None:
            in_bias += gain.sum().item() / a
        in_scale = unit.back(pull, wanted[4])
        of_scalars = penalty.clone(), in_scale, pull.new_tensor(in_bias)
        found = *pulls.values(), *of_scalars
        return outputs, [v if want else None for v, want in zip(found, wanted, strict=True)]

    def _score(self, z: torch.Tensor, grad: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean score of the positive pairs, and what each pulls at its rows if that is wanted."""
        score = self.pairwise.positive(z, TORCH).mean()
        if not grad:
            return score, None
        a = self.pairwise.coefficients()[0]
        return score, self.pairwise.positive_slope(z, TORCH) * (-a / len(z))

    def _sum(
        self, z: torch.Tensor, skips_diagonal: bool, grad: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum of the excesses of a block, and their slopes if a gradient is wanted."""
        pairwise = self.pairwise
        if grad and pairwise.ends_at_zero:
            if skips_diagonal:
                z.fill_diagonal_(-torch.inf)
            return pairwise.excess_total_and_slope(z, TORCH, self._bounded)
        if grad:
            excess, slope = pairwise.excess_and_slope(z, TORCH)
        else:
            excess = slope = pairwise.excess(z, TORCH)
        if skips_diagonal:
            excess.fill_diagonal_(0)
            slope.fill_diagonal_(0)
        return excess.sum(), slope if grad else None

    def _ratio(self, z: torch.Tensor, skips_diagonal: bool) -> torch.Tensor:
        """Sum of the ratios u of a block."""
        u = self.pairwise.ratio.excess(z, TORCH)
        return (u.fill_diagonal_(0) if skips_diagonal else u).sum()

    @property
    def _bounded(self) -> bool:
        """Whether z is known to be below the bound of `Ops.sum_log1p`."""
        a, _, c = self.pairwise.coefficients()
        top = self.scale * abs(a) * 1.001 + (c if self.bias is None else self.bias)
        return self.pairwise.normalize and top < LOGIT_BOUND
