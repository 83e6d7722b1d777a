"""Predictions of two views, y_pred (batch, 2, dim): their checks, and batches without negatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import keras
from keras.src.backend import get_keras_mask  # there is no public way to read a mask

from fmicl_core.checks import invalid
from fmicl_keras.backend import Tensor, float32_at_least

#: The warning of a batch of a single sample, which is no error here: training goes on.
NO_NEGATIVE = (
    "A batch of a single sample has no negative. Its loss is 0 and nothing is learned of it: drop a"
    " last batch of one, or choose another batch_size."
)


def check_views(shape: Sequence[int | None]) -> None:
    """Check the shape of predictions that hold the two views of every sample, (batch, 2, dim).

    Raises:
        ValueError: they have another shape.
    """
    shape = tuple(shape)
    if len(shape) != 3 or shape[1] not in (2, None):
        why = "Views z1 and z2 become one by keras.ops.stack([z1, z2], axis=1)."
        expected = "the two views of every sample, (batch, 2, dim)"
        raise invalid("y_pred", expected, shape, what="y_pred.shape", why=why)
    if shape[2] == 0:
        raise invalid("y_pred", "at least one feature, dim >= 1", shape, what="y_pred.shape")


def unmasked(y_pred: Tensor) -> Tensor:
    """Return y_pred when Keras masks none of its samples or views.

    A mask of more than two axes concerns the inside of a view, such as tokens that were averaged,
    and is ignored.

    Raises:
        ValueError: there is a mask.
    """
    mask = get_keras_mask(y_pred)
    if mask is not None and len(mask.shape) <= 2:
        raise invalid(
            "y_pred", "features without a Keras mask of samples or views", tuple(mask.shape),
            what="mask.shape",
            why="What is masked would still be a negative of the others: leave it out of the batch,"
            " or have the last layer's compute_mask return None.",
        )  # fmt: skip
    return y_pred


def or_zero(
    function: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    axis: tuple[int, ...] | None = None,
) -> Tensor:
    """function(x, y) of the views in rows (N, 2, D); 0, with zero gradient, where N < 2.

    A warning says so, once in a process, since Keras batches data to the last sample. Where
    TensorFlow does not know N while it traces for XLA, there is none, as XLA cannot call Python.

    Args:
        function: loss or metric of the views x and y, (N, D).
        rows: views (N, 2, D) of all replicas.
        axis: axes of rows that the function's result lacks: None if it is a scalar, (1, 2) if it
            is (N,).

    Raises:
        ValueError: rows have another shape.
    """
    check_views(rows.shape)

    def nothing() -> Tensor:
        wide = keras.ops.cast(rows, float32_at_least(keras.backend.standardize_dtype(rows.dtype)))
        return keras.ops.sum(0.0 * wide, axis=axis)  # which has a gradient, and shows NaN

    if rows.shape[0] is None:
        return _chosen_when_run(function, rows, nothing())
    if rows.shape[0] >= 2:
        return function(rows[:, 0], rows[:, 1])
    warn_of_no_negative()
    return nothing()


def _chosen_when_run(
    function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, nothing: Tensor
) -> Tensor:
    """The result of `or_zero` where TensorFlow does not know N while it traces.

    Instead of a branch, through which TensorFlow and XLA cannot take every gradient, the function
    has two rows of ones where there is one, and neither its value nor its gradient comes through.
    """
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    n = tf.shape(rows)[0]
    enough = n >= 2
    if not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):

        def warn() -> Tensor:
            tf.py_function(warn_of_no_negative, [], [])
            return n

        n = tf.cond(enough, lambda: n, warn)
    two = tf.pad(rows, [[0, tf.maximum(2 - n, 0)], [0, 0], [0, 0]])
    two = tf.ensure_shape(tf.where(enough, two, tf.ones_like(two)), rows.shape)
    result = function(two[:, 0], two[:, 1])
    return tf.where(enough, result[:n] if result.shape.rank else result, nothing)


@cache
def warn_of_no_negative() -> None:
    """Warn of a batch of a single sample, once in a process."""
    warnings.warn(NO_NEGATIVE, UserWarning, stacklevel=2)
