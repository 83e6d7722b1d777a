"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten.
"""

from __future__ import annotations

from typing import Any

import torch

from fmicl_core import Pairwise
from fmicl_core.forms import tile_size
from fmicl_torch.fused import Launch, Sums, fused_sums
from fmicl_torch.ops import TORCH
from fmicl_torch.registry import pairwise_of
from fmicl_torch.transforms import (
    along,
    asks_for_gradient,
    differentiated_once,
    loops_under_vmap,
)


def tiled_block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    fused: str = "",
) -> torch.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None.
        text: text of the specification in the registry; its normalization has been applied.
        skips_diagonal: whether the pairs with i = j are left out.
        fused: dtype of the products of the Triton routine; "" for plain tiles.
    """
    columns = asks_for_gradient(right)
    grad = columns or asks_for_gradient(left)
    mean, _, _ = block_mean_and_gradients(
        left, right, text, skips_diagonal, grad, grad and columns, fused
    )
    return mean


def block_mean_and_gradients(
    left: torch.Tensor,
    right: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    grad: bool,
    columns: bool = True,
    fused: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean excess over the pairs (left_i, right_j), right None meaning left, and its gradients.

    The mean is differentiable once, in reverse and in forward mode. Without `grad`, and in place of
    the gradient in right where right is left or `columns` is False, empty tensors. `fused` as for
    `tiled_block_mean`.
    """
    columns = grad and columns and right is not None
    size = tile_size(left.device.type)
    function = _BlockMean if torch.compiler.is_compiling() else _BlockMeanInBothModes
    return function.apply(left, right, text, skips_diagonal, size, grad, columns, fused)


@torch.library.custom_op("fmicl::block_mean", mutates_args=())
def _block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    fused: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean excess over the pairs (left_i, right_j) and its gradients; right None means left."""
    pairwise = pairwise_of(text)
    others = left if right is None else right
    if fused:
        atomic = not torch.are_deterministic_algorithms_enabled()
        launch = Launch(pairwise, skips_diagonal, getattr(torch, fused), atomic)
        sums = fused_sums(left, right, launch, grad, columns)
    else:
        sweep = _Sweep(left, right, pairwise, grad, columns)
        for i in range(0, len(left), tile):
            for j in range(i if right is None else 0, len(others), tile):
                sweep.tile(slice(i, i + tile), slice(j, j + tile), skips_diagonal and i == j)
        sums = sweep.sums
    pairs = len(left) * (len(others) - skips_diagonal)
    mean = (sums.total / pairs).to(left.dtype)
    nothing = left.new_empty(0)
    if not grad:
        return mean, nothing, left.new_empty(0)
    # In a symmetric block (i, j) and (j, i) both count.
    scale = (2.0 if right is None else 1.0) / pairs
    _scale(sums.grad_left, sums.mass_left, left, pairwise, scale)
    if columns:
        _scale(sums.grad_right, sums.mass_right, others, pairwise, scale)
    return mean, sums.grad_left, sums.grad_right if columns else nothing


def _scale(
    grad: torch.Tensor, mass: torch.Tensor | None, rows: torch.Tensor, pairwise: Pairwise, by: float
) -> None:
    """Make the gradient in the rows of a sum of weighted rows and of the sum of the weights."""
    a, b, _ = pairwise.coefficients()
    grad.mul_(a * by)
    if mass is not None:
        grad.addcmul_(mass[:, None], rows, value=2.0 * b * by)


class _Sweep:
    """Sums of one block, tile by tile; in a symmetric block each tile is visited once."""

    def __init__(
        self,
        left: torch.Tensor,
        right: torch.Tensor | None,
        pairwise: Pairwise,
        grad: bool,
        columns: bool,
    ) -> None:
        self.pairwise, self.grad, self.symmetric = pairwise, grad, right is None
        self.columns = columns
        self.a, self.b, self.c = pairwise.coefficients()
        self.left, self.right = left, left if right is None else right
        self.bias = self.right.new_full((len(self.right),), self.c)
        if self.b:
            self.bias += self.b * self.right.square().sum(dim=1)
            self.left_bias = self.b * self.left.square().sum(dim=1, keepdim=True)
        # One accumulator, updated in place: small tensors kept between tiles would split the heap.
        wide = left.dtype if left.device.type == "mps" else torch.float64
        self.total = left.new_zeros((), dtype=wide)
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
        return Sums(self.total, self.grad_left, self.grad_right, self.mass_left, self.mass_right)

    def tile(self, i: slice, j: slice, on_diagonal: bool) -> None:
        """Add the tile of rows i and columns j."""
        z = torch.addmm(self.bias[j], self.left[i], self.right[j].T, alpha=self.a)
        if self.b:
            z += self.left_bias[i]
        total, weight = self._evaluate(z, on_diagonal)
        mirrored = self.symmetric and i != j
        self.total.add_(total, alpha=2 if mirrored else 1)
        if weight is not None:
            self._add_gradient(weight, i, j, mirrored or self.columns)

    def _evaluate(
        self, z: torch.Tensor, on_diagonal: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Sum of the tile's excesses, and their slopes if a gradient is wanted."""
        if self.grad and not on_diagonal:
            return self.pairwise.excess_total_and_slope(z, TORCH)
        if not self.grad:
            excess = self.pairwise.excess(z, TORCH)
            return (excess.fill_diagonal_(0.0) if on_diagonal else excess).sum(), None
        excess, weight = self.pairwise.excess_and_slope(z, TORCH)
        weight = weight.fill_diagonal_(0.0)
        return excess.fill_diagonal_(0.0).sum(), weight

    def _add_gradient(self, weight: torch.Tensor, i: slice, j: slice, columns: bool) -> None:
        self.grad_left[i].addmm_(weight, self.right[j])
        if columns:
            self.grad_right[j].addmm_(weight.T, self.left[i])
        if self.mass_left is not None and self.mass_right is not None:
            self.mass_left[i] += weight.sum(dim=1)
            if columns:
                self.mass_right[j] += weight.sum(dim=0)


@_block_mean.register_fake
def _(
    left: torch.Tensor,
    right: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    fused: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layout = torch.contiguous_format if fused else torch.preserve_format
    grad_left, grad_right = (
        torch.empty_like(rows, memory_format=layout)
        if wanted and rows is not None
        else left.new_empty(0)
        for wanted, rows in ((grad, left), (columns, right))
    )
    return left.new_empty(()), grad_left, grad_right


loops_under_vmap(_block_mean)


class _BlockMean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(  # Dynamo counts the parameters, to learn that there is no context among them
        left: torch.Tensor, right: torch.Tensor | None, text: str, skips_diagonal: bool, tile: int,
        grad: bool, columns: bool, fused: str,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
        return _block_mean(left, right, text, skips_diagonal, tile, grad, columns, fused)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        left, right, *_, columns, _ = inputs
        ctx.columns = columns
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], left, right)
        ctx.save_for_forward(*output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        grad_left, grad_right, left, right = ctx.saved_tensors
        both = (left,) if right is None else (left, right)
        in_left = differentiated_once(upstream * grad_left, *both)
        in_right = differentiated_once(upstream * grad_right, *both) if ctx.columns else None
        return in_left, in_right, None, None, None, None, None, None


class _BlockMeanInBothModes(_BlockMean):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, left: Any, right: Any, *_: Any) -> tuple[Any, None, None]:
        grad_left, grad_right = ctx.saved_tensors
        return along((grad_left, left), (grad_right, right)), None, None
