"""What lets an operator of tiles take part in autograd, forward mode and `torch.func`."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from fmicl_core.checks import once_differentiable


def asks_for_gradient(x: torch.Tensor | None) -> bool:
    """Whether a derivative in x will be wanted, in reverse or in forward mode."""
    if x is None:
        return False
    if x.requires_grad:
        return torch.is_grad_enabled()
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(x).tangent is not None


def is_batched(x: torch.Tensor) -> bool:
    """Whether x stands for many, under `torch.vmap`, so that its value decides nothing."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def differentiated_once(value: torch.Tensor, *of: torch.Tensor) -> torch.Tensor:
    """The value, a first derivative, tied to what it depends on: to differentiate it is an error.

    Nothing is tied where nobody asks for second derivatives.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return value
    return _Once.apply(value, *of)


def scaled_by(upstream: torch.Tensor, gradient: torch.Tensor, *of: torch.Tensor) -> torch.Tensor:
    """Upstream times a saved gradient, differentiable once; in place where it is its last use.

    The graph, and what it saved, goes with such a backward pass, which then takes no copy.
    """
    if upstream.dtype == gradient.dtype and _is_last_pass(upstream):
        return gradient.mul_(upstream)
    return differentiated_once(upstream * gradient, *of)


def _is_last_pass(upstream: torch.Tensor) -> bool:
    """Whether the backward pass that runs is plain, and the graph is not kept after it."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    functorch = torch._C._functorch
    if functorch.is_functorch_wrapped_tensor(upstream):
        return False
    # What is private to PyTorch may be gone one day: then there is a copy.
    legacy = getattr(functorch, "is_legacy_batchedtensor", lambda x: True)
    keeps = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return not (legacy(upstream) or keeps())


class OnceDifferentiable(torch.autograd.Function):
    """Base class of a function that computes a first derivative; a second one is an error."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        """Refuse a second derivative in reverse mode."""
        raise once_differentiable()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refuse a second derivative in forward mode."""
        raise once_differentiable()


def known_once(gradient: torch.Tensor, *of: torch.Tensor | None) -> torch.Tensor:
    """A gradient that forward mode takes for a number, tied to what it depends on.

    To differentiate it once more, in either mode, is an error; without this the slope would be 0.
    """
    once: torch.Tensor = _Once.apply(gradient, *(tensor for tensor in of if tensor is not None))
    return once


class _Once(OnceDifferentiable):
    @staticmethod
    def forward(value: torch.Tensor, *of: torch.Tensor) -> torch.Tensor:
        return value.clone()


def loops_under_vmap(operator: Any) -> None:
    """Let `torch.vmap` call a custom operator once for every entry, and stack what comes back."""

    def each(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        moved = [
            a.movedim(d, 0) if isinstance(d, int) else a
            for a, d in zip(arguments, in_dims, strict=True)
        ]
        results = [
            operator(*(a[i] if isinstance(d, int) else a
                       for a, d in zip(moved, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]  # fmt: skip
        stacked = tuple(torch.stack(outputs) for outputs in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    operator.register_vmap(each)


def along(*pairs: tuple[torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
    """Slope in forward mode: the sum of <gradient, tangent> over the pairs that have a tangent."""
    slopes = [(gradient * tangent).sum() for gradient, tangent in pairs if tangent is not None]
    total: torch.Tensor = sum(slopes[1:], slopes[0])
    return total
