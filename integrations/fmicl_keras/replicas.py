"""One loss for the union batch of all replicas of a `tf.distribute.Strategy`.

Inside `Strategy.run` every replica sees its own share of the batch. Where there are several, the
functions here gather or add up values of all of them, and gradients return to where values came
from. Elsewhere they do nothing: arrays that JAX shards are whole in the eyes of the program.
"""

from __future__ import annotations

import threading
from typing import Any

import keras

from fmicl_keras.backend import Tensor


def gather(rows: Tensor | None) -> Tensor | None:
    """The rows of all replicas, one replica after the other; of None, None."""
    context = _replica_context()
    return rows if rows is None or context is None else context.all_gather(rows, axis=0)


def own_share(values: Tensor, rows: Tensor) -> Tensor:
    """This replica's share of values that belong to all rows of `gather(rows)`."""
    context = _replica_context()
    if context is None:
        return values
    start = _first(context, rows)
    return values[start : start + keras.ops.shape(rows)[0]]


def numbers(rows: Tensor) -> Tensor:
    """The numbers (N,) of this replica's rows in `gather(rows)`."""
    context, own = _replica_context(), keras.ops.arange(keras.ops.shape(rows)[0], dtype="int32")
    return own if context is None else own + _first(context, rows)


def _first(context: Any, rows: Tensor) -> Tensor:
    """The number of the replica's first row in `gather(rows)`."""
    sizes = context.all_gather(keras.ops.reshape(keras.ops.shape(rows)[0], (1,)), axis=0)
    return keras.ops.sum(sizes[: context.replica_id_in_sync_group])


def total(rows: Any) -> Any:
    """The number of rows of all replicas, of that of this one; a tensor where there are several."""
    context = _replica_context()
    if context is None:
        return rows
    return keras.ops.sum(context.all_gather(keras.ops.reshape(rows, (1,)), axis=0))


def add_up(value: Tensor) -> Tensor:
    """The sum of the replicas' values."""
    context = _replica_context()
    return value if context is None else context.all_reduce("SUM", value)


def signed(value: Tensor) -> Tensor:
    """The value, which `signed_here` then knows as one of this replica; replicas are threads."""
    if _replica_context() is not None:
        value._fmicl_thread = threading.get_ident()
    return value


def signed_here(values: list[Tensor]) -> list[Tensor]:
    """Those of the values that this replica has signed."""
    if _replica_context() is None:
        return values
    return [v for v in values if v._fmicl_thread == threading.get_ident()]


def each_machines(value: Tensor) -> Tensor:
    """The scalar of a replica, as (1,) where there are several machines."""
    if _replica_context() is None:
        return value
    import tensorflow as tf

    over = isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)
    return keras.ops.reshape(value, (1,)) if over else value


def replica_count() -> int:
    """The number of replicas that the strategy keeps in step; 1 without a strategy."""
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _replica_context() -> Any:
    """The context of one replica among several, or None."""
    if replica_count() == 1:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()  # None while Keras builds the model
