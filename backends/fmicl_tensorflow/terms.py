"""The loss and its two terms, of whatever form, of this process or of all replicas."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from fmicl_core import FMICL
from fmicl_core.checks import check_alpha_value, check_bool, overflowed
from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import mean_over_blocks
from fmicl_core.renamed import with_old_names
from fmicl_tensorflow.dense import dense_block_mean, positive_scores
from fmicl_tensorflow.distributed import BlockMean, Replicas, replica_context
from fmicl_tensorflow.inputs import explain_non_finite, prepare, weight_of
from fmicl_tensorflow.tiled import tiled_block_mean


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs."""

    loss: tf.Tensor
    score: tf.Tensor
    penalty: tf.Tensor


def terms_of(
    settings: FMICL,
    alpha: float | tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor | None,
    bank: tf.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: bool,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss but alpha, which may be an array.
        alpha, x, y, bank, implementation, check_finite, distributed: as for `fmicl_loss`.
    """
    check_bool("check_finite", check_finite)
    check_bool("distributed", distributed)
    check_implementation(implementation)
    weight, pairwise = weight_of(alpha), settings.pairwise
    context = replica_context() if distributed else None
    rows = prepare(x, y, bank, pairwise.normalize, least=2 if context is None else 1)
    replicas = None if context is None else Replicas(context, rows["x"])
    n, k = rows["x"].shape[0], rows.get("bank", rows["x"]).shape[0]
    if context is not None:
        n = None if n is None else n * context.num_replicas_in_sync
        k = n if bank is None else k
    dense = choose_form(implementation, n, k) == "dense"
    block_mean: BlockMean = dense_block_mean if dense else tiled_block_mean
    mean = tf.reduce_mean
    if replicas is not None:
        block_mean, mean = replicas.against_all(block_mean), replicas.mean
    score = mean(positive_scores(rows, pairwise))
    excess = mean(
        mean_over_blocks(
            settings.blocks(bank is not None),
            lambda block: block_mean(*block.sides(rows), pairwise, block.skips_diagonal),
        )
    )
    penalty = pairwise.limit + excess
    if not isinstance(weight, float):  # a number stays one, which tf.cast would take for float32
        weight = tf.cast(weight, excess.dtype)
    loss = weight * penalty - score
    if check_finite and tf.executing_eagerly():
        check_alpha_value(float(weight))
        if not tf.math.is_finite(loss):
            objective = replace(settings, alpha=float(weight))
            raise explain_non_finite(x, y, bank) or overflowed(objective, float(loss))
    return FMICLTerms(loss, score, penalty)
