"""The functions of the specification in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fmicl_core.checks import once_differentiable
from fmicl_core.ops import Ops


def _softplus(x: torch.Tensor) -> torch.Tensor:
    # The default threshold of 20 is off by 2e-9, too much in float64; at 50 it is exact.
    return F.softplus(x, threshold=50.0)


def _expm1(x: torch.Tensor) -> torch.Tensor:
    if not x.requires_grad:
        return torch.expm1(x)
    # Autograd takes the slope as expm1(x) + 1, which is 0 below x = -17 in float32; this is e^x.
    slope = torch.exp(x)
    return torch.expm1(x.detach()) + (slope - slope.detach())


def _sum_log(x: torch.Tensor) -> torch.Tensor:
    # A logarithm costs a CPU twenty multiplications or more, so it is taken of products of 16 rows.
    rows = len(x) // 16 * 16
    products = x[:rows].view(16, -1, x.shape[1]).prod(dim=0)
    return products.log().sum() + x[rows:].log().sum()


TORCH = Ops(
    name="torch",
    exp=torch.exp,
    expm1=_expm1,
    log=torch.log,
    log1p=torch.log1p,
    softplus=_softplus,
    sigmoid=torch.sigmoid,
    relu=torch.relu,
    sum=torch.sum,
    sum_log=_sum_log,
)


def normalize_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows scaled to unit length, x / |x|; (N, D) to (N, D). A zero row stays zero.

    The largest entry is divided out first, so that no finite row overflows or underflows; as the
    result does not depend on it, no gradient flows through it.
    """
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest == 0, 1.0, largest)
    square = (scaled * scaled).sum(dim=1, keepdim=True)
    return scaled / torch.where(square == 0, 1.0, square).sqrt()


class UnitRows(torch.autograd.Function):
    """`normalize_rows`, once differentiable: keeps only its result and two numbers a row."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
        """Scale rows, x / |x|; (N, D) to (N, D)."""
        largest = x.abs().amax(dim=1, keepdim=True)
        largest = torch.where(largest == 0, 1.0, largest)
        unit = x / largest
        length = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
        length = torch.where(length == 0, 1.0, length)
        unit.div_(length)
        ctx.save_for_backward(unit, largest, length)
        return unit

    @staticmethod
    def backward(ctx, upstream: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def,override]
        """The part of the gradient at right angles to the row, over its length."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise once_differentiable()
        unit, largest, length = ctx.saved_tensors
        inner = (unit * upstream).sum(dim=1, keepdim=True)
        return torch.addcmul(upstream, unit, inner, value=-1.0).div_(length).div_(largest)


def off_diagonal(square: torch.Tensor) -> torch.Tensor:
    """View of a square matrix without its diagonal, (N, N) to (N - 1, N); no copy is made."""
    n = square.shape[0]
    return square.flatten()[1:].view(n - 1, n + 1)[:, :-1]
