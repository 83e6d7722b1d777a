"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten.
"""

from __future__ import annotations

from typing import Any

import torch

from fmicl_core import Pairwise
from fmicl_core.forms import positive_tile_size, tile_size
from fmicl_torch.dense import Sides
from fmicl_torch.fused import Launch, fused_sums
from fmicl_torch.ids import ALL, NONE, SOME
from fmicl_torch.registry import pairwise_of
from fmicl_torch.sweep import PositiveSweep, Sweep, equal_pairs, tiles_of
from fmicl_torch.transforms import (
    along,
    asks_for_gradient,
    known_once,
    loops_under_vmap,
    scaled_by,
)

#: A mean, and its gradients in the left rows, the right rows and the bias.
Means = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def tiled_block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    fused: str = "",
    numbers: Sides | None = None,
    weights: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left.

    With numbers, pairs of equal numbers count as 0. With weights, the positives among the pairs:
    the mean over i of weights_i times the sum over j of the scores of the pairs of equal numbers.

    Args:
        left: (N, D) features.
        right: (K, D) features, or None.
        text: text of the specification in the registry; its normalization has been applied.
        skips_diagonal: whether the pairs with i = j are left out.
        fused: dtype of the products of the Triton routine; "" for plain tiles.
        numbers: numbers of the rows on the left and on the right, best side by side where equal;
            None where all are different.
        weights: (N,) weights of the left rows; equal, in a symmetric block, where numbers are.
        bias: constant of z in place of that of the similarity, a scalar; or None.
    """
    columns = asks_for_gradient(right)
    grad = columns or asks_for_gradient(left) or asks_for_gradient(bias)
    mean, *_ = block_mean_and_gradients(
        left, right, text, skips_diagonal, grad, grad and columns, fused, numbers, weights, bias
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
    numbers: Sides | None = None,
    weights: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Means:
    """The mean of `tiled_block_mean` and its gradients in left, right and bias.

    The mean is differentiable once, in reverse and in forward mode. Without `grad`, and in place of
    the gradient in right where right is left or `columns` is False, and of that in bias where there
    is none, empty tensors. `fused`, `numbers`, `weights` and `bias` as for `tiled_block_mean`.
    """
    columns = grad and columns and right is not None
    device = left.device.type
    size = tile_size(device) if weights is None or fused else positive_tile_size(device)
    function = _BlockMean if torch.compiler.is_compiling() else _BlockMeanInBothModes
    own, others = numbers or (None, None)
    others = None if others is own else others  # Dynamo takes no tensor twice
    return function.apply(
        left, right, bias, own, others, weights, text, skips_diagonal, size, grad, columns, fused
    )


@torch.library.custom_op("fmicl::block_mean", mutates_args=())
def _block_mean(
    left: torch.Tensor,
    right: torch.Tensor | None,
    bias: torch.Tensor | None,
    numbers_left: torch.Tensor | None,
    numbers_right: torch.Tensor | None,
    weights: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    fused: str,
) -> Means:
    """The mean of `tiled_block_mean` and its gradients; on the right None means as on the left."""
    pairwise = pairwise_of(text)
    others = left if right is None else right
    numbers = None
    if numbers_left is not None:
        numbers = numbers_left, numbers_left if numbers_right is None else numbers_right
    if fused:
        atomic = not torch.are_deterministic_algorithms_enabled()
        launch = Launch(pairwise, skips_diagonal, getattr(torch, fused), atomic)
        sums = fused_sums(left, right, launch, grad, columns, numbers, weights, bias)
    else:
        block = left, right, pairwise, bias, grad, columns
        sweep = Sweep(*block) if weights is None else PositiveSweep(weights, *block)
        none = ALL if weights is None else NONE  # tiles with this state have no pair that counts
        for i, j, state in tiles_of(left, right, numbers, tile):
            if state != none:
                equal = equal_pairs(numbers, i, j) if numbers and state == SOME else None
                sweep.tile(i, j, skips_diagonal and i == j, equal)
        sums = sweep.sums
    # Of positives it is the mean over the left rows.
    count = len(left) * (1 if weights is not None else len(others) - skips_diagonal)
    mean = (sums.total / count).to(left.dtype)
    nothing, none_either = left.new_empty(0), left.new_empty(0)
    if not grad:
        return mean, nothing, none_either, left.new_empty(0)
    in_bias = left.new_empty(0) if sums.slope is None else (sums.slope / count).to(left.dtype)
    # In a symmetric block (i, j) and (j, i) both count.
    scale = (2.0 if right is None else 1.0) / count
    _scale(sums.grad_left, sums.mass_left, left, pairwise, scale)
    if columns:
        _scale(sums.grad_right, sums.mass_right, others, pairwise, scale)
    return mean, sums.grad_left, sums.grad_right if columns else nothing, in_bias


def _scale(
    grad: torch.Tensor, mass: torch.Tensor | None, rows: torch.Tensor, pairwise: Pairwise, by: float
) -> None:
    """Make the gradient in the rows of a sum of weighted rows and of the sum of the weights."""
    a, b, _ = pairwise.coefficients()
    grad.mul_(a * by)
    if mass is not None:
        grad.addcmul_(mass[:, None], rows, value=2.0 * b * by)


@_block_mean.register_fake
def _(
    left: torch.Tensor,
    right: torch.Tensor | None,
    bias: torch.Tensor | None,
    numbers_left: torch.Tensor | None,
    numbers_right: torch.Tensor | None,
    weights: torch.Tensor | None,
    text: str,
    skips_diagonal: bool,
    tile: int,
    grad: bool,
    columns: bool,
    fused: str,
) -> Means:
    layout = torch.contiguous_format if fused else torch.preserve_format
    grad_left, grad_right = (
        torch.empty_like(rows, memory_format=layout)
        if wanted and rows is not None
        else left.new_empty(0)
        for wanted, rows in ((grad, left), (columns, right))
    )
    in_bias = left.new_empty(() if grad and bias is not None else 0)
    return left.new_empty(()), grad_left, grad_right, in_bias


loops_under_vmap(_block_mean)


class _BlockMean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(  # Dynamo counts the parameters, to learn that there is no context among them
        left: torch.Tensor, right: torch.Tensor | None, bias: torch.Tensor | None,
        numbers_left: torch.Tensor | None, numbers_right: torch.Tensor | None,
        weights: torch.Tensor | None, text: str, skips_diagonal: bool, tile: int, grad: bool,
        columns: bool, fused: str,
    ) -> Means:  # fmt: skip
        return _block_mean(left, right, bias, numbers_left, numbers_right, weights, text,
                           skips_diagonal, tile, grad, columns, fused)  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        left, right, bias, *_, columns, _ = inputs
        ctx.columns = columns
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], left, right, bias)
        ctx.save_for_forward(*output[1:], left, right, bias)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        *grads, left, right, bias = ctx.saved_tensors
        given = [tensor for tensor in (left, right, bias) if tensor is not None]
        wanted = True, ctx.columns, bias is not None
        scaled = [scaled_by(upstream, grad, *given) if want else None
                  for grad, want in zip(grads, wanted, strict=True)]  # fmt: skip
        return *scaled, *[None] * 9


class _BlockMeanInBothModes(_BlockMean):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, None, None, None]:
        *grads, left, right, bias = ctx.saved_tensors
        pairs = [
            (known_once(grad, left, right, bias), tangent)
            for grad, tangent in zip(grads, tangents[:3], strict=True)
            if tangent is not None
        ]
        return along(*pairs), None, None, None
