"""Ids of rows: checked, renumbered and counted; the weights of anchors and of negatives by them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fmicl_core.checks import (
    InvalidArgument,
    check_ids,
    id_a_row,
    invalid,
    no_negatives,
    no_positives,
)
from fmicl_core.pairs import Block, Pairs
from fmicl_tensorflow.dense import Rows, Sides
from fmicl_tensorflow.distributed import Replicas
from fmicl_tensorflow.inputs import assert_when_run


class Numbers(NamedTuple):
    """Numbers of rows, equal where their ids are: the place of the first row with the same id.

    Args:
        own: numbers of the rows of x, and of y; (N,) int32.
        union: numbers of the rows of all replicas; those of `own` without replicas.
        bank: numbers of the bank's rows, (K,); None where none has an id of x.
    """

    own: tf.Tensor
    union: tf.Tensor
    bank: tf.Tensor | None

    def of(self, block: Block) -> Sides | None:
        """Numbers of the rows on both sides of a block; None where no two are equal."""
        right = self.bank if block.right == "bank" else self.own
        return None if right is None else (self.own, right)

    def weights(self, pairs: Pairs, dtype: tf.DType) -> tf.Tensor:
        """One over the number of positives of every row of x, 0 where it has none; (N,).

        NaN where no row has any, so that the loss is NaN.
        """
        return self._weights(pairs, self.own, dtype)

    def _weights(self, pairs: Pairs, anchors: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """The same of any anchors, by their numbers."""
        count = pairs.positives_of(self._count(self.union, anchors))
        weights = tf.math.reciprocal_no_nan(tf.cast(count, dtype))
        some = tf.reduce_any(pairs.positives_of(self._count(self.union, self.union)) > 0)
        return tf.where(some, weights, tf.constant(float("nan"), dtype))

    def negative_share(self, pairs: Pairs, dtype: tf.DType) -> tf.Tensor:
        """Share of negative pairs among all pairs; exactly 1 where all ids are different."""
        return tf.reduce_mean(self._negative_shares(pairs, dtype))

    def lack_negatives(self, pairs: Pairs) -> tf.Tensor:
        """Whether there is no negative pair, or if decoupled a softmax without one."""
        none = self._negative_shares(pairs, tf.float32) == 0.0
        if not pairs.decoupled:
            return tf.reduce_all(none)
        return tf.reduce_any(none & (self._weights(pairs, self.union, tf.float32) > 0.0))

    def explain(self, pairs: Pairs) -> InvalidArgument | None:
        """The error where there is no positive or no negative pair."""
        if tf.reduce_any(tf.math.is_nan(self.weights(pairs, tf.float32))):
            return no_positives(int(tf.size(self.union)))
        if not self.lack_negatives(pairs):
            return None
        others = self.bank if pairs.has_bank else self.union
        return no_negatives(int(tf.size(others)), pairs.has_bank)

    def sum_by_id(self, rows: tf.Tensor) -> tf.Tensor:
        """For every row the sum of the rows with its id, itself included; (N, D)."""
        sums = tf.math.unsorted_segment_sum(rows, self.own, tf.shape(rows)[0])
        return tf.gather(sums, self.own)

    def _negative_shares(self, pairs: Pairs, dtype: tf.DType) -> tf.Tensor:
        """The same of the pairs of every anchor of the union; (N,)."""
        others = self.bank if pairs.has_bank else self.union
        if others is None:
            return tf.ones(tf.shape(self.union), dtype)
        same = tf.cast(self._count(others, self.union), dtype)
        return pairs.negatives_of(same, tf.cast(tf.size(others), dtype))

    def _count(self, among: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        """Number of rows `among` these that have the number of each anchor."""
        numbers = tf.size(self.union) + (0 if self.bank is None else tf.size(self.bank))
        counts = tf.math.unsorted_segment_sum(tf.ones_like(among), among, numbers)
        return tf.gather(counts, anchors)


def numbers_of(
    ids: tf.Tensor | None,
    bank_ids: tf.Tensor | None,
    rows: Rows,
    replicas: Replicas | None = None,
) -> Numbers | None:
    """The numbers of the rows, of a union of replicas if there are some; None without ids.

    Args:
        ids, bank_ids: as for `fmicl_loss`.
        rows: features by name, checked.
        replicas: replicas that share the batch.

    Raises:
        ValueError: ids are no tensor, no whole numbers or not one a row.
    """
    if ids is None:
        return None
    own, asserted = _checked("ids", ids, rows["x"])
    of_bank = []
    if bank_ids is not None:
        one, more = _checked("bank_ids", bank_ids, rows["bank"])
        of_bank, asserted = [one], asserted + more
    # Here, not where they are reshaped: TensorFlow takes that away, and what it waits for with it.
    with tf.control_dependencies(asserted):
        every = own if replicas is None else replicas.gather(own)
        numbers = _number(tf.concat([every, *of_bank], axis=0))
    n = tf.size(every)
    union = own = numbers[:n]
    if replicas is not None:
        own = replicas.own(union)
    return Numbers(own, union, None if bank_ids is None else numbers[n:])


def _checked(
    name: str, ids: tf.Tensor, rows: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Operation | None]]:
    """The ids as int64, a bijection that keeps which are equal; and what to wait for."""
    if not isinstance(ids, tf.Tensor | tf.Variable | np.ndarray):
        raise invalid(name, "a tf.Tensor", type(ids).__name__, what=f"type({name})")
    ids = tf.convert_to_tensor(ids)
    ids = tf.ensure_shape(ids, [None]) if ids.shape.rank is None else ids
    check_ids(name, ids.shape, ids.dtype.name, rows.shape[0])
    n = tf.shape(rows)[0]
    asserted = []
    if ids.shape[0] is None or rows.shape[0] is None:
        asserted = [assert_when_run(tf.size(ids) == n, name, id_a_row(name), ids)]
    # To a shape that XLA, which knows no assertions, would refuse if it did not fit.
    return tf.reshape(tf.cast(ids, tf.int64), [n]), asserted


def _number(ids: tf.Tensor) -> tf.Tensor:
    """For every row the place of the first row with its id; (N,) int32."""
    order = tf.argsort(ids, stable=True)
    ordered = tf.gather(ids, order)
    starts = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    group = tf.cumsum(tf.concat([tf.zeros([1], tf.int32), starts], axis=0))
    first = tf.math.unsorted_segment_min(order, group, tf.size(ids))
    return tf.tensor_scatter_nd_update(order, order[:, None], tf.gather(first, group))
