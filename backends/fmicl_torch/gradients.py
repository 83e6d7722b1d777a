"""A loss and its gradients in the features as plain tensors, for loops that carry them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fmicl_core.caching import check_float, no_gradient, no_scalar
from fmicl_torch.inputs import check_tensor
from fmicl_torch.loss import fmicl_loss


class LossAndGradients(NamedTuple):
    """A loss and its gradients in the features x and y, without a graph; y None without a y.

    Examples:
        >>> import torch
        >>> from fmicl_torch import loss_and_gradients
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> found = loss_and_gradients(x, y)
        >>> round(float(found.loss), 4), tuple(found.x.shape), tuple(found.y.shape)
        (3.2531, (4, 2), (4, 2))
    """

    loss: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor | None


def loss_and_gradients(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    loss: Callable[..., torch.Tensor] = fmicl_loss,
    **options: Any,
) -> LossAndGradients:
    """The loss of features and its gradients in them, as plain arrays without a graph.

    It is `value = loss(x, y, **options)` with `torch.autograd.grad(value, (x, y))`, of copies that
    no other graph knows: it works under `torch.no_grad()` and `torch.inference_mode()`, and changes
    no `.grad`. What else the loss depends on, such as a scale that learns, is a constant here and
    gets no gradient; `cached_loss` gives it one.

    Args:
        x: (N, D) features of the first view, or of all rows; any float dtype.
        y: (N, D) features of the second view, or None where the loss takes a single array.
        loss: function or object that returns a scalar: a loss of this package, or one's own.
        options: options of the loss by name, such as `divergence`, `bank` or `ids`.

    Returns:
        Named tuple (loss, x, y): the scalar, and gradients in the shape and dtype of the features.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. The loss has the dtype that
        `loss` gives it. A gradient has the dtype of its argument.

    Derivatives:
        None: the loss and the gradients are constants to whatever is computed from them.

    Raises:
        ValueError: the features are no float tensors, or the loss returns no scalar that depends on
            them; and what the loss itself raises.

    Examples:
        >>> import torch
        >>> from fmicl_torch import info_nce_loss, loss_and_gradients
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> value, in_x, in_y = loss_and_gradients(x, y, loss=info_nce_loss, temperature=0.2)
        >>> round(float(in_x[0, 1]), 4)  # a step against it turns x[0] towards y[0]
        -0.4777
        >>> bool(info_nce_loss(x - 0.1 * in_x, y - 0.1 * in_y, temperature=0.2) < value)
        True

    Source: the gradient cache of Gao et al. (2021), section 3.2.
    """
    given = {"x": x} if y is None else {"x": x, "y": y}
    for name, value in given.items():
        check_tensor(name, value)
        check_float(name, str(value.dtype).removeprefix("torch."))
    with torch.inference_mode(False), torch.enable_grad():
        rows = [_detached(value).requires_grad_() for value in given.values()]
        constants = {name: _detached(option) for name, option in options.items()}
        value = checked_scalar(loss(*rows, **constants))
        if not value.requires_grad:
            raise no_gradient()
        grads = torch.autograd.grad(value, rows, allow_unused=True, materialize_grads=True)
    return LossAndGradients(value.detach(), grads[0], grads[1] if len(grads) > 1 else None)


def checked_scalar(value: Any) -> torch.Tensor:
    """What a loss returned.

    Raises:
        ValueError: it is no scalar.
    """
    if not isinstance(value, torch.Tensor):
        raise no_scalar(type(value).__name__)
    if value.ndim:
        raise no_scalar(tuple(value.shape))
    return value


def _detached(value: Any) -> Any:
    """A tensor without its graph, which autograd takes; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.clone() if value.is_inference() else value.detach()
