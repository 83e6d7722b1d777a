"""The functions of the specification in PyTorch."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fmicl_core.ops import Ops
from fmicl_torch.transforms import differentiated_once, known_once

#: Up to so many numbers a call of an operator costs more than the logarithms that it spares.
FEW = 2**15
#: Numbers larger than this, on average, keep enough digits when 1 is added to them.
ROUGH = 2.0**-4


def _softplus(x: torch.Tensor) -> torch.Tensor:
    # The default threshold of 20 is off by 2e-9, too much in float64; at 50 it is exact.
    return F.softplus(x, threshold=50.0)


def _expm1(x: torch.Tensor) -> torch.Tensor:
    if not x.requires_grad:
        return torch.expm1(x)
    # Autograd takes the slope as expm1(x) + 1, which is 0 below x = -17 in float32; this is e^x.
    slope = torch.exp(x)
    return torch.expm1(x.detach()) + (slope - slope.detach())


def _sum_log1p(x: torch.Tensor) -> torch.Tensor:
    # A logarithm costs a CPU twenty multiplications or more, so it is taken of products of 16 rows,
    # which are kept less 1: (1 + p)(1 + q) - 1 = p + q + p q has the digits of small p and q.
    if x.numel() <= FEW:
        return x.log1p().sum()
    rows = len(x) // 16 * 16
    half = rows // 2
    p, q = x[:half], x[half:rows]
    return _of_products(torch.addcmul(q, p, q).add_(p)) + x[rows:].log1p().sum()


def _of_products(p: torch.Tensor) -> torch.Tensor:
    """Sum of the logarithms of 1 + p, of products of eight rows, in place."""
    rows = len(p)
    for half in (rows // 2, rows // 4, rows // 8):
        low, p = p[:half], p[half : 2 * half]
        p.addcmul_(low, p).add_(low)
    return p.log1p_().sum()


class TorchOps(Ops):
    """The functions, and what of them is faster together."""

    def sum_softplus_and_sigmoid(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Ops.sum_softplus_and_sigmoid`; on a CPU in memory that stays between tiles."""
        if x.device.type != "cpu" or x.numel() <= FEW or x.requires_grad:
            return super().sum_softplus_and_sigmoid(x)
        u = x.exp_()
        more = _scratch(x, 0, x.shape)
        torch.add(u, 1.0, out=more)
        rows = len(u) // 16 * 16
        if u[::64].mean() > ROUGH:  # then one pass multiplies the factors as they are
            p = more[:rows].view(rows // 16, 16, *x.shape[1:]).prod(1)
            return p.log_().sum() + more[rows:].log().sum(), u.div_(more)
        half = rows // 2
        p = _scratch(x, 1, (half, *x.shape[1:]))
        torch.addcmul(u[:half], u[half:rows], more[:half], out=p)
        total = _of_products(p) + u[rows:].log1p().sum()
        return total, u.div_(more)


def _scratch(like: torch.Tensor, which: int, shape: Sequence[int]) -> torch.Tensor:
    """Memory of this thread for an array of that shape; fresh memory is slow at first touch."""
    kept: dict[Any, torch.Tensor] = _kept.__dict__
    key = f"{like.dtype} {which}"
    size = math.prod(shape)
    if key not in kept or kept[key].numel() < size:
        kept[key] = like.new_empty(size)
    return kept[key][:size].view(*shape)


_kept = threading.local()
TORCH = TorchOps(
    name="torch",
    exp=torch.exp,
    expm1=_expm1,
    log=torch.log,
    log1p=torch.log1p,
    softplus=_softplus,
    sigmoid=torch.sigmoid,
    relu=torch.relu,
    sum=torch.sum,
    sum_log1p=_sum_log1p,
)


def normalize_rows(x: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
    """Rows scaled to unit length, x / |x|; (N, D) to (N, D). A zero row stays zero.

    The largest entry is divided out first, so that no finite row overflows or underflows; as the
    result does not depend on it, no gradient flows through it.

    Args:
        x: (N, D) rows.
        factor: length > 0 that the rows get instead of 1, a scalar of their dtype; or None.
    """
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest == 0, 1.0, largest)
    square = (scaled * scaled).sum(dim=1, keepdim=True)
    length = torch.where(square == 0, 1.0, square).sqrt()
    return scaled / (length if factor is None else length / factor)


def unit_rows(x: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
    """`normalize_rows`, once differentiable: keeps only its result and two numbers a row."""
    function = _UnitRows if torch.compiler.is_compiling() else _UnitRowsInBothModes
    rows: torch.Tensor = function.apply(x, factor)[0]
    return rows


class _UnitRows(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor, factor: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # factor x / |x|, and |x| / factor as the product of two numbers a row.
        largest = x.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest == 0, 1.0, largest)
        largest = largest if factor is None else largest / factor
        rows = x / largest
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        length = torch.where(length == 0, 1.0, length)
        length = length if factor is None else length / factor
        return rows.div_(length), largest, length

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output, inputs[1])
        ctx.save_for_forward(*output, inputs[1])

    @staticmethod
    def backward(
        ctx: Any, upstream: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows, largest, length, factor = ctx.saved_tensors
        in_x, along = _across(rows, upstream, largest, length, factor)
        if factor is None:
            return differentiated_once(in_x, rows), None
        in_factor = differentiated_once(along.sum() / factor, rows, factor)
        return differentiated_once(in_x, rows, factor), in_factor


class _UnitRowsInBothModes(_UnitRows):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(
        ctx: Any, tangent: torch.Tensor | None, of_factor: torch.Tensor | None
    ) -> tuple[torch.Tensor, None, None]:
        rows, largest, length, factor = ctx.saved_tensors
        rows = known_once(rows, factor)
        moved = []
        if tangent is not None:
            moved.append(_across(rows, tangent, largest, length, factor)[0])
        if of_factor is not None:
            moved.append(rows * (of_factor / factor))
        return sum(moved[1:], moved[0]), None, None


def _across(
    rows: torch.Tensor,
    change: torch.Tensor,
    largest: torch.Tensor,
    length: torch.Tensor,
    factor: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of a change at right angles to a row, over the row's length; and <row, change>."""
    inner = (rows * change).sum(dim=1, keepdim=True)
    part = inner if factor is None else inner / factor.square()
    across = torch.addcmul(change, rows, part, value=-1.0)
    return across.div_(length).div_(largest), inner


def off_diagonal(square: torch.Tensor) -> torch.Tensor:
    """View of a square matrix without its diagonal, (N, N) to (N - 1, N); no copy is made."""
    n = square.shape[0]
    return square.flatten()[1:].view(n - 1, n + 1)[:, :-1]
