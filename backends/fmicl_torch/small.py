"""Small batches: a loss with its gradient in one node of the graph, since nodes are what costs.

A matrix product of 128 rows takes a CPU 30 microseconds, and so do a few nodes of autograd. So the
gradient is computed by hand, beside the value. Derivatives of higher order, and those of the two
terms of the loss, are the dense form's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from fmicl_core import forms

#: Outputs of a loss, the one to minimise first, as scalars; gradients of that one in the inputs.
Quick = tuple[tuple[torch.Tensor, ...], list[torch.Tensor | None]]
#: Rows whose lengths are between these neither overflow nor underflow when they are squared.
SHORT, LONG = 1e-15, 1e15
_KINDS = torch.Tensor, torch.nn.Parameter
_DTYPES = torch.float32, torch.float64


def is_small(
    x: Any,
    y: Any,
    bank: Any,
    scalars: Sequence[Any],
    implementation: Any,
    normalize: bool,
    scores: int = 0,
) -> bool:
    """Whether a loss of these arguments may be one node; what is a mistake among them may not.

    Args:
        x, y, bank, implementation, normalize: as for `fmicl_loss`.
        scalars: what else of its arguments may be a tensor.
        scores: numbers that are kept for every pair of a row of x and one of its negatives, where
            to compute them twice is what else costs; such a batch is small, too, while they take no
            more memory than features and gradients. 0 where they are not computed twice.
    """
    if implementation != "auto" or type(normalize) is not bool or torch.compiler.is_compiling():
        return False
    sides = (x, y) if bank is None else (x, y, bank)
    for side in sides:
        if type(side) not in _KINDS or side.ndim != 2 or side.dtype not in _DTYPES:
            return False
        if not side.is_cpu or side.dtype != x.dtype or side.layout != torch.strided:
            return False
    tensors = [*sides, *(v for v in scalars if isinstance(v, torch.Tensor))]
    (n, d), last = x.shape, sides[-1].shape
    fits = y.shape == x.shape and d == last[1] > 0
    enough = n > 1 if bank is None else n > 0 < last[0]
    pairs = n * last[0]
    small = pairs <= forms.DENSE_PAIRS or 0 < scores * pairs <= 2 * (n + last[0]) * d
    return fits and enough and small and not _is_watched(tensors)


def _is_watched(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether more is asked of a loss than a value and a derivative in reverse mode."""
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    if torch._C._get_tracing_state() is not None:
        return True
    for v in tensors:
        if type(v) not in _KINDS or not v.is_cpu or forward_ad.unpack_dual(v).tangent is not None:
            return True
    return False


def in_one_node(
    quick: Callable[..., Quick],
    dense: Callable[..., tuple[torch.Tensor, ...]],
    *inputs: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """The outputs of a loss, differentiable to any order.

    Args:
        quick: function of the inputs and a list that says which gradients are wanted; returns the
            outputs, and the gradients of the first.
        dense: the same outputs, by operations that autograd knows.
        inputs: arrays and scalars.
    """
    if torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return in_one_node(quick, dense, *inputs)
    if torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in inputs):
        return _Node.apply(quick, dense, *inputs)  # type: ignore[no-any-return]
    return quick(*inputs, wanted=[False] * len(inputs))[0]


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quick: Any, dense: Any, *inputs: Any) -> tuple[torch.Tensor, ...]:
        outputs, gradients = quick(*inputs, wanted=ctx.needs_input_grad[2:])
        ctx.dense, ctx.count = dense, len(inputs)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *gradients)
        return outputs

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        inputs, gradients = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        if (
            torch.is_grad_enabled()
            or upstream[0] is None
            or any(u is not None for u in upstream[1:])
        ):
            wanted = ctx.needs_input_grad[2:]
            return None, None, *_by_autograd(ctx.dense, inputs, wanted, upstream)
        return None, None, *(None if g is None else upstream[0] * g for g in gradients)


def _by_autograd(
    dense: Any, inputs: Sequence[Any], wanted: Sequence[bool], upstream: Sequence[Any]
) -> list[torch.Tensor | None]:
    """Gradients of the dense form, which have derivatives themselves where these are asked for."""
    if all(u is None for u in upstream):
        return [None] * len(inputs)
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Each a node of its own: one input may depend on another.
        own = [None if v is None else v.view_as(v) for v in inputs]
        outputs = dense(*own)
    asked = [(o, u) for o, u in zip(outputs, upstream, strict=True) if u is not None]
    leaves = [v for v, w in zip(own, wanted, strict=True) if w and v is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in asked], leaves, [u for _, u in asked],
            create_graph=again, allow_unused=True,
        )
    )  # fmt: skip
    return [next(found) if w else None for w in wanted]


class UnitRows(NamedTuple):
    """Rows of all arrays, one below the other, and what leads back from them.

    Args:
        rows: rows of x, y and the bank, of the length sqrt(scale) where they are normalised, else
            multiplied by it.
        lengths: numbers a row, whose product over the scale's root rows were divided by.
        scale: factor of a product of two rows, which has its root in both.
        normalize: whether rows have a length of their own, and a gradient across it.
    """

    rows: torch.Tensor
    lengths: tuple[torch.Tensor | float, ...]
    scale: float
    normalize: bool

    @classmethod
    def of(cls, sides: Sequence[torch.Tensor], normalize: bool, scale: float = 1.0) -> UnitRows:
        """The rows of these arrays."""
        rows, root = torch.cat(list(sides)), scale**0.5
        if not normalize:
            return cls(rows if scale == 1.0 else rows.mul_(root), (1.0 / root,), scale, False)
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        low, high = length.aminmax()
        lengths: tuple[torch.Tensor, ...] = ()
        if not SHORT < low.item() <= high.item() < LONG:  # or NaN
            largest = rows.abs().amax(dim=1, keepdim=True)
            largest.masked_fill_(largest == 0, 1.0)
            length = torch.linalg.vector_norm(rows.div_(largest), dim=1, keepdim=True)
            length.masked_fill_(length == 0, 1.0)
            lengths = (largest,)
        length = length if scale == 1.0 else length.mul_(1.0 / root)
        return cls(rows.div_(length), (length, *lengths), scale, True)

    def back(self, gradient: torch.Tensor, wants_scale: bool) -> torch.Tensor | None:
        """Turn the gradient in the rows, in place, into that in what was given; that in the scale.

        Args:
            gradient: gradient in the rows.
            wants_scale: whether the gradient in the scale is wanted.
        """
        in_scale = None
        if self.normalize or wants_scale:
            inner = (self.rows * gradient).sum(dim=1, keepdim=True)
            in_scale = inner.sum() / (2.0 * self.scale) if wants_scale else None
            if self.normalize:
                gradient.addcmul_(self.rows, inner, value=-1.0 / self.scale)
        for length in self.lengths:
            gradient.div_(length)
        return in_scale
