"""A loss and its gradients in the features as plain arrays, for loops that carry them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmicl_core.caching import check_float, no_scalar
from fmicl_core.checks import invalid
from fmicl_jax.inputs import is_array
from fmicl_jax.loss import fmicl_loss


class LossAndGradients(NamedTuple):
    """A loss and its gradients in the features x and y, without a graph; y None without a y.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import loss_and_gradients
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> found = loss_and_gradients(x, y)
        >>> round(float(found.loss), 4), tuple(found.x.shape), tuple(found.y.shape)
        (3.2531, (4, 2), (4, 2))
    """

    loss: jax.Array
    x: jax.Array
    y: jax.Array | None


def loss_and_gradients(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    loss: Callable[..., jax.Array] = fmicl_loss,
    **options: Any,
) -> LossAndGradients:
    """The loss of features and its gradients in them, as plain arrays without a graph.

    It is `jax.value_and_grad(loss, argnums=(0, 1))(x, y, **options)`, of which nothing is
    differentiated again, in or outside of `jax.jit`. What else the loss depends on, such as a scale
    that learns, is a constant here and gets no gradient; `cached_loss` gives it one.

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
        ValueError: the features are no float arrays, or the loss returns no scalar; and what the
            loss itself raises.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import info_nce_loss, loss_and_gradients
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> value, in_x, in_y = loss_and_gradients(x, y, loss=info_nce_loss, temperature=0.2)
        >>> round(float(in_x[0, 1]), 4)  # a step against it turns x[0] towards y[0]
        -0.4777
        >>> bool(info_nce_loss(x - 0.1 * in_x, y - 0.1 * in_y, temperature=0.2) < value)
        True

    Source: the gradient cache of Gao et al. (2021), section 3.2.
    """
    given = {"x": x} if y is None else {"x": x, "y": y}
    for name, value in given.items():
        if not is_array(value):
            raise invalid(name, "a jax.Array", type(value).__name__, what=f"type({name})")
        check_float(name, value.dtype.name)
    constants = {name: _constant(option) for name, option in options.items()}

    def of_rows(*rows: jax.Array) -> jax.Array:
        return checked_scalar(loss(*rows, **constants))

    rows = [_constant(value) for value in given.values()]
    value, grads = jax.value_and_grad(of_rows, argnums=tuple(range(len(rows))))(*rows)
    value, *grads = map(jax.lax.stop_gradient, (value, *grads))
    return LossAndGradients(value, grads[0], grads[1] if len(grads) > 1 else None)


def checked_scalar(value: Any) -> jax.Array:
    """What a loss returned.

    Raises:
        ValueError: it is no scalar.
    """
    if not isinstance(value, jax.Array):
        raise no_scalar(type(value).__name__)
    if value.ndim:
        raise no_scalar(value.shape)
    return value


def _constant(value: Any) -> Any:
    """An array that is not differentiated; anything else as it is."""
    return jax.lax.stop_gradient(jnp.asarray(value)) if is_array(value) else value
