"""The loss of the union batch of all replicas of a `tf.distribute` strategy.

Every replica reports the global loss. The gradient in its own features is W times theirs of the
global loss, W the number of replicas, so that averaging over the replicas gives the gradient of one
process with the whole batch. Replicas may hold different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_core.objective import Block
from fmicl_core.ranks import warn_of_ranks
from fmicl_tensorflow.dense import Rows

#: Mean excess of a block: left, right (None means left), pairwise, skips_diagonal.
BlockMean = Callable[[tf.Tensor, tf.Tensor | None, Pairwise, bool], tf.Tensor]


class Replicas:
    """The replicas that share a batch.

    Args:
        context: replica context of the strategy.
        rows: of this replica.
    """

    def __init__(self, context: tf.distribute.ReplicaContext, rows: tf.Tensor) -> None:
        self.context, self.rows = context, tf.shape(rows)[0]
        sizes = context.all_gather(self.rows[None], axis=0)
        self.total = tf.reduce_sum(sizes)
        self.before = tf.reduce_sum(sizes[: context.replica_id_in_sync_group])

    def sum(self, part: tf.Tensor) -> tf.Tensor:
        """Sum over the replicas, with gradient."""
        return self.context.all_reduce(tf.distribute.ReduceOp.SUM, part)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Mean over the union of one value a row, with gradient; a scalar."""
        return self.sum(tf.reduce_sum(values) / tf.cast(self.total, values.dtype))

    def others(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows of all other replicas, with gradient."""
        union = self.context.all_gather(rows, axis=0)
        return tf.roll(union, -self.before, axis=0)[self.rows :]


def replica_context() -> tf.distribute.ReplicaContext | None:
    """The context of the strategy around the call, or None where there is one replica only."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


def tell_of_replicas(loss: str) -> None:
    """Warn, once, that a loss that knows no replicas is called inside of a replica context."""
    if replica_context() is not None:
        warn_of_ranks(loss)


def shared_excess(
    rows: Rows,
    pairwise: Pairwise,
    blocks: tuple[Block, ...],
    block_mean: BlockMean,
    replicas: Replicas,
) -> tf.Tensor:
    """Mean excess in the union; every replica works on its rows against all.

    Equals `dense_excess` of the gathered rows.

    Args:
        rows: this replica's features by the names "x" (n, D), "y" (n, D) and, if given, "bank".
        pairwise: the specification; its normalization has been applied.
        blocks: of negative pairs.
        block_mean: dense or tiled.
        replicas: that share the batch.
    """
    dtype = rows["x"].dtype
    n, total = tf.cast(replicas.rows, dtype), tf.cast(replicas.total, dtype)
    mean = tf.zeros((), dtype)
    for block in blocks:
        left, right = rows[block.left], rows[block.right]
        here = None if block.symmetric else right
        if not block.skips_diagonal:  # every replica has the whole bank
            mean += block.share * block_mean(left, here, pairwise, False)
            continue
        near = (n - 1.0) * block_mean(left, here, pairwise, True)
        far = (total - n) * block_mean(left, replicas.others(right), pairwise, False)
        mean += block.share * (near + far) / (total - 1.0)
    return replicas.sum(n / total * mean)
