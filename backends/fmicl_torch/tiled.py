"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten.
"""

from __future__ import annotations

import torch

from fmicl_core import FMICL
from fmicl_core.checks import once_differentiable
from fmicl_torch.dense import Rows
from fmicl_torch.kernel import Launch, Sums, kernel_sums
from fmicl_torch.ops import TORCH
from fmicl_torch.registry import objective_of

#: Rows and columns of a tile. On a CPU a float32 tile and its temporaries stay in the L2 cache.
TILE = {"cpu": 512}
TILE_ACCELERATOR = 4096


def tiled_uniformity(rows: Rows, number: int, kernel: str = "") -> torch.Tensor:
    """Uniformity in one pass; equals `dense_uniformity(rows, objective)`, once differentiable.

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        number: of the objective in the registry; its normalization has been applied.
        kernel: dtype of the products of the Triton kernel; "" for plain tiles.
    """
    objective = objective_of(number)
    total = rows["x"].new_zeros(())
    for block in objective.blocks("bank" in rows):
        left = rows[block.left]
        right = None if block.symmetric else rows[block.right]
        columns = right is not None and right.requires_grad
        grad = torch.is_grad_enabled() and (columns or left.requires_grad)
        mean, _, _ = block_mean_and_gradients(
            left, right, number, block.skips_diagonal, grad, grad and columns, kernel
        )
        total = total + block.share * mean
    return total


def block_mean_and_gradients(
    left: torch.Tensor,
    right: torch.Tensor | None,
    number: int,
    skips_diagonal: bool,
    grad: bool,
    columns: bool = True,
    kernel: str = "",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean penalty over the pairs (left_i, right_j), right None meaning left, and its gradients.

    Without `grad`, and in place of the gradient in right where right is left or `columns` is False,
    empty tensors. `kernel` as for `tiled_uniformity`.
    """
    columns = grad and columns and right is not None
    size = tile_size(left)
    return _block_mean(left, right, number, skips_diagonal, size, grad, columns, kernel)


def tile_size(x: torch.Tensor) -> int:
    """Rows and columns of a tile, at most, on the device of x."""
    return TILE.get(x.device.type, TILE_ACCELERATOR)


@torch.library.custom_op("fmicl::block_mean", mutates_args=())
def _block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    number: int,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    kernel: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean penalty over the pairs (left_i, right_j) and its gradients; right None means left."""
    objective = objective_of(number)
    others = left if right is None else right
    if kernel:
        atomic = not torch.are_deterministic_algorithms_enabled()
        launch = Launch(objective, skips_diagonal, getattr(torch, kernel), atomic)
        sums = kernel_sums(left, right, launch, grad, columns)
    else:
        sweep = _Sweep(left, right, objective, grad, columns)
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
    _scale(sums.grad_left, sums.mass_left, left, objective, scale)
    if columns:
        _scale(sums.grad_right, sums.mass_right, others, objective, scale)
    return mean, sums.grad_left, sums.grad_right if columns else nothing


def _scale(
    grad: torch.Tensor, mass: torch.Tensor | None, rows: torch.Tensor, objective: FMICL, by: float
) -> None:
    """Make the gradient in the rows of a sum of weighted rows and of the sum of the weights."""
    a, b, _ = objective.coefficients()
    grad.mul_(a * by)
    if mass is not None:
        grad.addcmul_(mass[:, None], rows, value=2.0 * b * by)


class _Sweep:
    """Sums of one block, tile by tile; in a symmetric block each tile is visited once."""

    def __init__(
        self,
        left: torch.Tensor,
        right: torch.Tensor | None,
        objective: FMICL,
        grad: bool,
        columns: bool,
    ) -> None:
        self.objective, self.grad, self.symmetric = objective, grad, right is None
        self.columns = columns
        self.a, self.b, self.c = objective.coefficients()
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
        """Sum of the tile's penalties, and their slopes if a gradient is wanted."""
        if self.grad and not on_diagonal:
            return self.objective.negative_total_and_slope(z, TORCH)
        if not self.grad:
            penalty = self.objective.negative(z, TORCH)
            return (penalty.fill_diagonal_(0.0) if on_diagonal else penalty).sum(), None
        penalty, weight = self.objective.negative_and_slope(z, TORCH)
        weight = weight.fill_diagonal_(0.0)
        return penalty.fill_diagonal_(0.0).sum(), weight

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
    number: int,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    kernel: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layout = torch.contiguous_format if kernel else torch.preserve_format
    grad_left, grad_right = (
        torch.empty_like(rows, memory_format=layout)
        if wanted and rows is not None
        else left.new_empty(0)
        for wanted, rows in ((grad, left), (columns, right))
    )
    return left.new_empty(()), grad_left, grad_right


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.columns = inputs[6]
    ctx.save_for_backward(output[1], output[2])


def _backward(ctx, grad_mean, *_):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise once_differentiable()
    grad_left, grad_right = ctx.saved_tensors
    right = grad_mean * grad_right if ctx.columns else None
    return grad_mean * grad_left, right, None, None, None, None, None, None


_block_mean.register_autograd(_backward, setup_context=_save)
