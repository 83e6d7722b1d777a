"""A loss and its gradients in the features as plain tensors, for loops that carry them on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fmicl_core.caching import check_float, no_gradient, no_scalar
from fmicl_core.checks import invalid
from fmicl_tensorflow.loss import fmicl_loss


class LossAndGradients(NamedTuple):
    """A loss and its gradients in the features x and y, without a graph; y None without a y.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import loss_and_gradients
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> found = loss_and_gradients(x, y)
        >>> round(float(found.loss), 4), tuple(found.x.shape), tuple(found.y.shape)
        (3.2531, (4, 2), (4, 2))
    """

    loss: tf.Tensor
    x: tf.Tensor
    y: tf.Tensor | None


def loss_and_gradients(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    loss: Callable[..., tf.Tensor] = fmicl_loss,
    **options: Any,
) -> LossAndGradients:
    """The loss of features and its gradients in them, as plain arrays without a graph.

    It is `value = loss(x, y, **options)` under a `tf.GradientTape` that watches x and y, with
    `tape.gradient(value, (x, y))`; a tape around it sees constants, in or outside of `tf.function`.
    What else the loss depends on, such as a scale that learns, is a constant here and gets no
    gradient.

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
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import info_nce_loss, loss_and_gradients
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> value, in_x, in_y = loss_and_gradients(x, y, loss=info_nce_loss, temperature=0.2)
        >>> round(float(in_x[0, 1]), 4)  # a step against it turns x[0] towards y[0]
        -0.4777
        >>> bool(info_nce_loss(x - 0.1 * in_x, y - 0.1 * in_y, temperature=0.2) < value)
        True

    Source: the gradient cache of Gao et al. (2021), section 3.2.
    """
    given = {"x": x} if y is None else {"x": x, "y": y}
    for name, value in given.items():
        if not isinstance(value, tf.Tensor | tf.Variable | np.ndarray):
            raise invalid(name, "a tf.Tensor", type(value).__name__, what=f"type({name})")
        check_float(name, tf.as_dtype(value.dtype).name)
    rows = [tf.stop_gradient(value) for value in given.values()]
    constants = {name: _constant(option) for name, option in options.items()}
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(rows)
        value = loss(*rows, **constants)
        if not isinstance(value, tf.Tensor):
            raise no_scalar(type(value).__name__)
        if value.shape.rank:
            raise no_scalar(tuple(value.shape))
    grads = tape.gradient(value, rows)
    if all(grad is None for grad in grads):
        raise no_gradient()
    filled = (tf.zeros_like(r) if g is None else g for r, g in zip(rows, grads, strict=True))
    value, *grads = map(tf.stop_gradient, (value, *filled))
    return LossAndGradients(value, grads[0], grads[1] if len(grads) > 1 else None)


def _constant(value: Any) -> Any:
    """A tensor that is not differentiated; anything else as it is."""
    return tf.stop_gradient(value) if isinstance(value, tf.Tensor | tf.Variable) else value
