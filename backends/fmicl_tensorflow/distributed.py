"""The loss of the union batch of all replicas of a `tf.distribute` strategy.

Every replica reports the global loss. The gradient in its own features is W times theirs of the
global loss, W the number of replicas, so that averaging over the replicas gives the gradient of one
process with the whole batch. Replicas may hold different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_core.ranks import warn_of_ranks

#: Mean excess of a block: left, right (None means left), pairwise, skips_diagonal.
BlockMean = Callable[[tf.Tensor, tf.Tensor | None, Pairwise, bool], tf.Tensor]


class Replicas:
    """The replicas that share a batch.

    Args:
        context: replica context of the strategy.
        rows: features of this replica.
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
        """Mean over the union of one value a row, or of one value a replica; with gradient."""
        share = tf.cast(self.rows, values.dtype) / tf.cast(self.total, values.dtype)
        return self.sum(share * tf.reduce_mean(values))

    def against_all(self, block_mean: BlockMean) -> BlockMean:
        """From a mean over one block of rows, the mean over this replica's rows against all rows.

        Args:
            block_mean: function of the dense or the tiled form that takes the mean over one block.
        """

        def mean(
            left: tf.Tensor, right: tf.Tensor | None, pairwise: Pairwise, skips_diagonal: bool
        ) -> tf.Tensor:
            if not skips_diagonal:  # every replica has the whole bank
                return block_mean(left, right, pairwise, False)
            n, total = (tf.cast(size, left.dtype) for size in (self.rows, self.total))
            others = self.others(left if right is None else right)
            near = (n - 1.0) * block_mean(left, right, pairwise, True)
            far = (total - n) * block_mean(left, others, pairwise, False)
            return (near + far) / (total - 1.0)

        return mean

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
