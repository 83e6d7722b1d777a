"""InfoNCE with any choice of softmaxes: what every public form of it calls."""

from __future__ import annotations

import math

import tensorflow as tf

from fmicl_core.checks import check_bool
from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_positives
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.dense_related import dense_info_nce
from fmicl_tensorflow.distributed import Replicas, replica_context
from fmicl_tensorflow.ids import Numbers, numbers_of
from fmicl_tensorflow.inputs import prepare
from fmicl_tensorflow.ring_softmax import ring_info_nce
from fmicl_tensorflow.scalars import Scale, check_values_of
from fmicl_tensorflow.tiled_related import tiled_info_nce


def info_nce_of(
    pairs: Pairs,
    scale: Scale,
    x: tf.Tensor,
    y: tf.Tensor | None,
    bank: tf.Tensor | None,
    ids: tf.Tensor | None,
    bank_ids: tf.Tensor | None,
    normalize: bool,
    implementation: str,
    distributed: bool,
) -> tf.Tensor:
    """Mean over anchors of the loss of their softmaxes.

    Args:
        pairs: pairs that count between the arrays.
        scale: factor of the scores, checked.
        x, y, bank, ids, bank_ids, normalize, implementation, distributed: as for `info_nce_loss`.
    """
    check_implementation(implementation)
    check_bool("distributed", distributed)
    context = replica_context() if distributed else None
    least = 2 if context is None else 0
    rows = prepare(x, y, bank, normalize, scale, least=least, has_ids=ids is not None)
    if tf.executing_eagerly():
        check_values_of(**dict([scale]))
    replicas = None if context is None else Replicas(context, rows["x"])
    numbers = numbers_of(ids, bank_ids, rows, replicas)
    n = rows["x"].shape[0] if replicas is None else replicas.total_if_known(rows["x"].shape[0])
    k = n if bank is None else rows["bank"].shape[0]
    form = choose_form(implementation, n, k)
    if replicas is not None and form == "dense":
        rows = {k: v if k == "bank" else replicas.gather(v) for k, v in rows.items()}
        numbers = None if numbers is None else numbers._replace(own=numbers.union)
    weights = None if numbers is None else numbers.weights(pairs, rows["x"].dtype)
    if replicas is not None and form != "dense":
        loss = replicas.sum(ring_info_nce(rows, pairs, replicas, numbers, weights))
    else:
        of_softmaxes = dense_info_nce if form == "dense" else tiled_info_nce
        loss = of_softmaxes(rows, pairs, numbers, weights)
        if numbers is not None and weights is not None:
            loss = loss + _other_positives(rows, pairs, numbers, weights)
    if numbers is None:
        return loss
    # Whether there is a negative is seen by nothing above.
    loss = tf.where(numbers.lack_negatives(pairs), tf.constant(math.nan, loss.dtype), loss)
    if tf.executing_eagerly() and tf.math.is_nan(loss):
        error = numbers.explain(pairs)  # not by :=, which AutoGraph does not know
        if error is not None:
            raise error
    return loss


def _other_positives(rows: Rows, pairs: Pairs, numbers: Numbers, weights: tf.Tensor) -> tf.Tensor:
    """What the positives beside y_i add: mean of (1 - w_i) s(x_i, y_i) - w_i sum_p s(x_i, p).

    The sum is x_i times the sum of the rows with its id, so that no pairs are looked at.
    """
    parts = []
    for anchor, views in info_nce_positives(pairs).items():
        own, part = rows[anchor], tf.zeros_like(weights)
        if not pairs.single:
            twin = tf.reduce_sum(rows["x"] * rows["y"], axis=1)
            part = (1.0 - weights) * twin
        for view in views:
            others = numbers.sum_by_id(rows[view]) - rows[view]
            part = part - weights * tf.reduce_sum(own * others, axis=1)
        parts.append(tf.reduce_mean(part))
    return tf.reduce_mean(tf.stack(parts))
