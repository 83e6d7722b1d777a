"""The loss of the union batch of all replicas of a `tf.distribute` strategy.

Every replica reports the global loss. The gradient in its own features is W times theirs of the
global loss, W the number of replicas, so that averaging over the replicas gives the gradient of one
process with the whole batch, in alpha, logit_scale and logit_bias as in the weights of an encoder.
Replicas may hold different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from fmicl_core import Pairwise
from fmicl_core.ranks import warn_of_ranks
from fmicl_tensorflow.dense import Sides


class Form(NamedTuple):
    """The functions of a block that the dense and the tiled form each have.

    Args:
        block_mean: function that takes the mean excess; see `dense_block_mean`.
        positive_sum: function that takes the sum of scores; see `dense_positive_sum`.
    """

    block_mean: Callable[..., tf.Tensor]
    positive_sum: Callable[..., tf.Tensor]


class Replicas:
    """The replicas that share a batch.

    Args:
        context: replica context of the strategy.
        rows: features of this replica.
    """

    def __init__(self, context: tf.distribute.ReplicaContext, rows: tf.Tensor) -> None:
        self.context, self.count = context, context.num_replicas_in_sync
        self.rows = tf.shape(rows)[0]
        #: Number of rows of every replica, (W,).
        self.sizes = tf.repeat(self.rows, self.count) if in_xla() else self.gather(self.rows[None])
        self.total = tf.reduce_sum(self.sizes)
        self.before = tf.reduce_sum(self.sizes[: context.replica_id_in_sync_group])

    @property
    def rank(self) -> int:
        """The number of this replica."""
        return int(tf.get_static_value(self.context.replica_id_in_sync_group))

    def sum(self, part: tf.Tensor) -> tf.Tensor:
        """Sum over the replicas, with gradient."""
        return self.context.all_reduce(tf.distribute.ReduceOp.SUM, part)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Mean over the union of one value a row, or of one value a replica; with gradient."""
        share = tf.cast(self.rows, values.dtype) / tf.cast(self.total, values.dtype)
        # Of a replica without rows 0, which a mean would not be.
        count = tf.cast(tf.maximum(tf.size(values), 1), values.dtype)
        return self.sum(share * tf.reduce_sum(values) / count)

    def total_if_known(self, rows: int | None) -> int | None:
        """The number of rows of the union where graphs know it, the same on every replica.

        Args:
            rows: number of this replica's rows, or None while it is unknown.
        """
        if in_xla():
            return None if rows is None else self.count * rows

        def total(strategy: tf.distribute.Strategy, sizes: object) -> int:
            # -1 stands for None, which would be no value.
            local = strategy.experimental_local_results(sizes)
            return -1 if min(local) < 0 else sum(local) * self.count // len(local)

        known = self.context.merge_call(total, args=(-1 if rows is None else rows,))
        return None if known < 0 else known

    def against_all(self, form: Form, union: tf.Tensor | None) -> Form:
        """From a form, the same of this replica's rows against all rows.

        Args:
            form: dense or tiled form of the rows that one replica has.
            union: numbers of all rows, equal where their ids are; None without ids.
        """

        def block_mean(
            left: tf.Tensor,
            right: tf.Tensor | None,
            pairwise: Pairwise,
            bias: tf.Tensor | None,
            skips_diagonal: bool,
            numbers: Sides | None = None,
        ) -> tf.Tensor:
            if not skips_diagonal:  # every replica has the whole bank
                # A replica without rows, whose share is 0, takes a row of zeros.
                more = tf.maximum(1 - self.rows, 0)
                left = tf.pad(left, [[0, more], [0, 0]])
                sides = None if numbers is None else (tf.pad(numbers[0], [[0, more]]), numbers[1])
                return form.block_mean(left, right, pairwise, bias, False, sides)
            n, total = (tf.cast(size, left.dtype) for size in (self.rows, self.total))
            others = self.others(left if right is None else right)
            near = form.block_mean(left, right, pairwise, bias, True, numbers)
            far = form.block_mean(left, others, pairwise, bias, False, beside(numbers))
            return ((n - 1.0) * near + (total - n) * far) / (total - 1.0)

        def positive_sum(
            left: tf.Tensor,
            right: tf.Tensor | None,
            pairwise: Pairwise,
            bias: tf.Tensor | None,
            skips_diagonal: bool,
            numbers: Sides,
            weights: tf.Tensor,
        ) -> tf.Tensor:
            others = self.others(left if right is None else right)
            near = form.positive_sum(left, right, pairwise, bias, skips_diagonal, numbers, weights)
            rest = beside(numbers)
            return near + form.positive_sum(left, others, pairwise, bias, False, rest, weights)

        def beside(numbers: Sides | None) -> Sides | None:
            return None if numbers is None or union is None else (numbers[0], self._rest(union))

        return Form(block_mean, positive_sum)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows of all replicas, with gradient."""
        return self.context.all_gather(rows, axis=0)

    def own(self, union: tf.Tensor) -> tf.Tensor:
        """Of something gathered, this replica's rows."""
        return union[self.before : self.before + self.rows]

    def others(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows of all other replicas, with gradient."""
        return self._rest(self.gather(rows))

    def _rest(self, union: tf.Tensor) -> tf.Tensor:
        """Of something gathered, the rows of all other replicas."""
        return tf.roll(union, -self.before, axis=0)[self.rows :]


def replica_context() -> tf.distribute.ReplicaContext | None:
    """The context of the strategy around the call, or None where there is one replica only."""
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


def in_xla() -> bool:
    """Whether XLA compiles the whole step, where all replicas have shapes that are known and equal.

    TensorFlow does that on GPUs alone. Not yet run on a GPU.
    """
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def tell_of_replicas(loss: str) -> None:
    """Warn, once, that a loss that takes no rows of other replicas is called on one of several."""
    if replica_context() is not None:
        warn_of_ranks(loss)
