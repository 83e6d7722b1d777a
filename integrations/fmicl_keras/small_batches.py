"""Batches without a negative pair, as Keras makes them of the last samples: their loss is 0.

A single sample has no negative, nor have samples with one label. The libraries refuse them, or give
NaN in a compiled step; here training goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
from keras.src.backend import in_symbolic_scope  # there is no public name

from fmicl_keras.backend import Tensor, float32_at_least, is_traced
from fmicl_keras.replicas import gather, numbers, total

#: The warning of a batch of a single sample.
NO_NEGATIVE = (
    "A batch of a single sample has no negative. Its loss is 0 and nothing is learned of it: drop a"
    " last batch of one, or choose another batch_size."
)
#: The warning of a batch whose ids, such as labels, make no pairs.
NO_PAIRS = (
    "The labels of a batch make no positive or no negative pair. Its loss is 0 and nothing is"
    " learned of it: choose a larger batch_size, or shuffle the samples."
)


def has_pairs(views: Tensor, ids: Tensor | None, is_share: bool = False) -> bool | Tensor:
    """Whether a batch has positive and negative pairs; a tensor where only its values tell.

    Args:
        views: views (N, V, D) of all replicas.
        ids: ids (N,) of the samples, or None if each is alone.
        is_share: whether views and ids are those of this replica, and the batch is the union.
    """
    rows = keras.ops.shape(views)[0]
    if is_share:
        rows, ids = total(rows), gather(ids)
    enough = rows >= _least(views)
    if ids is None or enough is False:
        return enough
    apart = keras.ops.any(ids != ids[:1])
    if views.shape[1] == 1:  # only labels make positives of it
        ordered = keras.ops.sort(ids)
        apart = apart & keras.ops.any(ordered[1:] == ordered[:-1])
    return apart if enough is True else enough & apart


def _least(views: Tensor) -> int:
    """The fewest samples that have positive and negative pairs, with some ids."""
    return 3 if views.shape[1] == 1 else 2


def or_zero(
    function: Callable[[Tensor, Tensor | None], Tensor],
    views: Tensor,
    ids: Tensor | None = None,
    axis: tuple[int, ...] | None = None,
    is_share: bool = False,
) -> Tensor:
    """function(views, ids); 0, with zero gradient, where the batch has no pairs.

    A warning says so, once in a process, but not where a step is compiled by XLA, for which
    TensorFlow cannot call Python, or by `torch.compile`.

    Args:
        function: loss or metric of the views and ids.
        views: views (N, V, D) of all replicas.
        ids: ids (N,) of the samples, or None.
        axis: axes of views that the function's result lacks: None if it is a scalar, (1, 2) if it
            is (N,).
        is_share: whether views and ids are those of this replica, which the function makes the loss
            of the union of.
    """

    def nothing() -> Tensor:
        wide = keras.ops.cast(views, float32_at_least(keras.backend.standardize_dtype(views.dtype)))
        return keras.ops.sum(0.0 * wide, axis=axis)  # which has a gradient, and shows NaN

    enough = has_pairs(views, ids, is_share)
    if not isinstance(enough, bool):
        if is_traced(enough):
            return _chosen_when_run(function, views, ids, enough, nothing())
        enough = bool(enough)
    if enough:
        return function(views, ids)
    if not in_symbolic_scope():  # in which Keras builds a model, and labels may be all alike
        warn_once(NO_NEGATIVE if ids is None else NO_PAIRS)
    return nothing()


def _chosen_when_run(
    function: Callable[[Tensor, Tensor | None], Tensor],
    views: Tensor,
    ids: Tensor | None,
    enough: Tensor,
    nothing: Tensor,
) -> Tensor:
    """The result of `or_zero` where it is not known while a step is traced.

    Instead of a branch, through which TensorFlow and XLA cannot take every gradient, the function
    has rows of ones with ids that make pairs where there are none, and neither its value nor its
    gradient comes through.
    """
    n = keras.ops.shape(views)[0]
    enough = _warned(enough, NO_NEGATIVE if ids is None else NO_PAIRS)
    filled = _filled(_least(views), views, enough)
    some = keras.ops.where(enough, filled, keras.ops.ones_like(filled))
    if ids is not None:
        ids = _filled(_least(views), ids, enough)
        places = numbers(ids)
        others = keras.ops.cast(places // (2 if views.shape[1] == 1 else 1), ids.dtype)
        ids = keras.ops.where(enough, ids, others)
    result = function(some, ids)
    return keras.ops.where(enough, result[:n] if len(result.shape) else result, nothing)


def _filled(least: int, rows: Tensor, enough: Tensor) -> Tensor:
    """The rows, and if not enough zeros up to `least`; only TensorFlow may not know how many."""
    if rows.shape[0] is not None:
        return rows
    import tensorflow as tf

    more = tf.where(enough, 0, tf.maximum(least - tf.shape(rows)[0], 0))
    padded = tf.pad(rows, [[0, more]] + [[0, 0]] * (rows.shape.rank - 1))
    return tf.ensure_shape(padded, rows.shape)


def _warned(enough: Tensor, message: str) -> Tensor:
    """`enough`, with a warning, once in a process, when a traced step runs without pairs."""

    def warn(*_: Any) -> None:
        warn_once(message)

    if keras.config.backend() == "jax":
        import jax

        jax.lax.cond(enough, lambda: None, lambda: jax.debug.callback(warn))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

        def told() -> Tensor:
            tf.py_function(warn, [], [])
            return enough

        if not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
            return tf.cond(enough, lambda: enough, told)
    return enough


@cache
def warn_once(message: str) -> None:
    """Warn of a batch without pairs, once in a process."""
    warnings.warn(message, UserWarning, stacklevel=2)
