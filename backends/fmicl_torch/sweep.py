"""The sums of one block, tile by tile: values of its pairs, and what they pull at the rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch

from fmicl_core import Pairwise
from fmicl_core.ops import LOGIT_BOUND
from fmicl_torch.dense import Sides
from fmicl_torch.fused import Sums
from fmicl_torch.ids import NONE, equal_in_tiles
from fmicl_torch.ops import TORCH


def tiles_of(
    left: torch.Tensor, right: torch.Tensor | None, numbers: Sides | None, tile: int
) -> Iterator[tuple[slice, slice, int]]:
    """Rows and columns of every tile, and which of its pairs have equal numbers: none, some or all.

    Args:
        left: (N, D) features.
        right: (K, D) features; None for left, whose tiles below the diagonal are left out.
        numbers: numbers of the rows on the left and on the right; None where none are equal.
        tile: rows and columns of a tile, at most.
    """
    columns = range(0, len(left if right is None else right), tile)
    equal = repeat([NONE] * len(columns)) if numbers is None else equal_in_tiles(*numbers, tile)
    for i, states in zip(range(0, len(left), tile), equal, strict=False):
        for j, state in zip(columns, states, strict=True):
            if right is not None or j >= i:
                yield slice(i, i + tile), slice(j, j + tile), state


def equal_pairs(numbers: Sides, i: slice, j: slice) -> torch.Tensor:
    """Which pairs of a tile have equal numbers."""
    return numbers[0][i, None] == numbers[1][None, j]


class Sweep:
    """Sums of the excesses of one block; in a symmetric block each tile is visited once.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None for left.
        pairwise: the specification; its normalization has been applied.
        bias: constant of z in place of that of the similarity, a scalar; or None.
        grad: whether gradients are wanted at all.
        columns: whether the gradient in right is wanted.
    """

    def __init__(
        self,
        left: torch.Tensor,
        right: torch.Tensor | None,
        pairwise: Pairwise,
        bias: torch.Tensor | None,
        grad: bool,
        columns: bool,
    ) -> None:
        self.pairwise, self.grad, self.symmetric = pairwise, grad, right is None
        self.columns = columns
        self.a, self.b, self.c = pairwise.coefficients()
        self.left, self.right = left, left if right is None else right
        self.constant = self.c if bias is None else bias
        gains = grad and pairwise.gains_by_a_bound
        self.bounded = gains and bias is not None and _bounded(left, self.right, bias)
        if self.b:
            self.bias = self.b * self.right.square().sum(dim=1) + self.constant
            self.left_bias = self.b * self.left.square().sum(dim=1, keepdim=True)
        # Every tile is in the same memory: fresh memory is slow at first touch.
        self.scores = left.new_empty(0)
        self.scaled_rows, self.scaled = slice(0), left.new_empty(0)
        # One accumulator, updated in place: small tensors kept between tiles would split the heap.
        wide = left.dtype if left.device.type == "mps" else torch.float64
        self.total = left.new_zeros((), dtype=wide)
        self.slope = None if bias is None or not grad else left.new_zeros((), dtype=wide)
        self.grad_left = torch.zeros_like(left) if grad else left.new_empty(0)
        self.grad_right = self.grad_left
        self.mass_left = left.new_zeros(len(left)) if grad and self.b else None
        self.mass_right = self.mass_left
        if columns and right is not None:
            self.grad_right = torch.zeros_like(right)
            self.mass_right = right.new_zeros(len(right)) if self.b else None

    @property
    def sums(self) -> Sums:
        """The sums so far."""
        grads = self.grad_left, self.grad_right
        return Sums(self.total, *grads, self.mass_left, self.mass_right, self.slope)

    def tile(self, i: slice, j: slice, on_diagonal: bool, equal: torch.Tensor | None) -> None:
        """Add the tile of rows i and columns j.

        Args:
            i, j: rows and columns of the tile.
            on_diagonal: whether the tile's diagonal is that of the block, and left out.
            equal: pairs of the tile with equal numbers, where there may be both kinds; or None.
        """
        z = self._numbers(i, j)
        total, weight = self._evaluate(z, i, on_diagonal, equal)
        mirrored = self.symmetric and i != j
        self.total.add_(total, alpha=2 if mirrored else 1)
        if weight is not None:
            if self.slope is not None:  # while the weights are in the cache
                self.slope.add_(weight.sum(), alpha=2 if mirrored else 1)
            self._add_gradient(weight, i, j, mirrored or self.columns)

    def _numbers(self, i: slice, j: slice) -> torch.Tensor:
        """The number z of every pair of the tile of rows i and columns j."""
        left, right = self.left[i], self.right[j]
        size = len(left) * len(right)
        if self.scores.numel() < size:
            self.scores = left.new_empty(size)
        z = self.scores[:size].view(len(left), len(right))
        if self.b:
            torch.addmm(self.bias[j], left, right.T, alpha=self.a, out=z)
            return z.add_(self.left_bias[i])
        if i != self.scaled_rows:  # the factor, and the constant, cost less than within `addmm`
            self.scaled_rows, self.scaled = i, left if self.a == 1.0 else self.a * left
        torch.mm(self.scaled, right.T, out=z)
        return z.add_(self.constant)

    def _evaluate(
        self, z: torch.Tensor, i: slice, on_diagonal: bool, equal: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum of the tile's values, and their slopes if a gradient is wanted."""
        every = not on_diagonal and equal is None
        if self.grad and (every or self.pairwise.ends_at_zero):
            z = _without(z, on_diagonal, equal, -torch.inf)
            return self.pairwise.excess_total_and_slope(z, TORCH, self.bounded)
        if not self.grad:
            return _without(self.pairwise.excess(z, TORCH), on_diagonal, equal).sum(), None
        excess, weight = self.pairwise.excess_and_slope(z, TORCH)
        weight = _without(weight, on_diagonal, equal)
        return _without(excess, on_diagonal, equal).sum(), weight

    def _add_gradient(self, weight: torch.Tensor, i: slice, j: slice, columns: bool) -> None:
        self.grad_left[i].addmm_(weight, self.right[j])
        if columns:
            self.grad_right[j].addmm_(weight.T, self.left[i])
        if self.mass_left is not None and self.mass_right is not None:
            self.mass_left[i] += weight.sum(dim=1)
            if columns:
                self.mass_right[j] += weight.sum(dim=0)


class PositiveSweep(Sweep):
    """Sums of the scores of the pairs with equal numbers, each by the weight of its left row.

    In a symmetric block rows with equal numbers have equal weights.

    Args:
        weights: (N,) weights of the left rows.
        block: other arguments of `Sweep`.
    """

    def __init__(self, weights: torch.Tensor, *block: Any) -> None:
        super().__init__(*block)
        self.weights = weights

    def _evaluate(
        self, z: torch.Tensor, i: slice, on_diagonal: bool, equal: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        weights = self.weights[i, None]
        if on_diagonal or equal is not None:
            equal = torch.ones_like(z, dtype=torch.bool) if equal is None else equal
            equal = _without(equal, on_diagonal, None)
            # Of other pairs a score may be infinite.
            z.masked_fill_(~equal, self.pairwise.coincident)
            weights = weights * equal
        total = (weights * self.pairwise.positive(z, TORCH)).sum()
        return total, weights * self.pairwise.positive_slope(z, TORCH) if self.grad else None


def _bounded(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor) -> bool:
    """Whether e^z is known to be small enough for `Ops.sum_log1p`; on a CPU, where asking is cheap.

    A sum of logarithms is a logarithm of products there.
    """
    if left.device.type != "cpu":
        return False
    longest = [torch.linalg.vector_norm(side, dim=1).max() for side in (left, right)]
    return (longest[0] * longest[1] + bias).item() < LOGIT_BOUND


def _without(
    values: torch.Tensor, on_diagonal: bool, equal: torch.Tensor | None, by: float = 0
) -> torch.Tensor:
    """The values of a tile, in place, another where a pair does not count."""
    if on_diagonal:
        values.fill_diagonal_(by)
    return values if equal is None else values.masked_fill_(equal, by)
