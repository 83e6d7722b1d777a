"""The loss and its two terms, of whatever form, of this process or of all replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from fmicl_core import FMICL, Pairwise
from fmicl_core.checks import check_alpha_value, check_bool, overflowed
from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import Pairs, mean_over_blocks, pairs_of
from fmicl_core.renamed import with_old_names
from fmicl_tensorflow.dense import (
    Rows,
    dense_block_mean,
    dense_positive_sum,
    positive_scores,
)
from fmicl_tensorflow.distributed import Form, Replicas, replica_context
from fmicl_tensorflow.ids import Numbers, numbers_of
from fmicl_tensorflow.inputs import explain_non_finite, prepare, weight_of
from fmicl_tensorflow.tiled import tiled_block_mean, tiled_positive_sum


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs."""

    loss: tf.Tensor
    score: tf.Tensor
    penalty: tf.Tensor


#: The forms, as `choose_form` calls them.
FORMS = {
    "dense": Form(dense_block_mean, dense_positive_sum),
    "tiled": Form(tiled_block_mean, tiled_positive_sum),
}


def terms_of(
    settings: FMICL,
    alpha: float | tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor | None,
    bank: tf.Tensor | None,
    ids: tf.Tensor | None,
    bank_ids: tf.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: bool,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss but alpha, which may be an array.
        alpha, x, y, bank, ids, bank_ids, implementation, check_finite, distributed: as for
            `fmicl_loss`.
    """
    check_bool("check_finite", check_finite)
    check_bool("distributed", distributed)
    check_implementation(implementation)
    pairs = pairs_of(settings.negatives, settings.positives, y, bank, ids, bank_ids)
    weight, pairwise = weight_of(alpha), settings.pairwise
    context = replica_context() if distributed else None
    least = 2 if context is None else 1
    rows = prepare(x, y, bank, pairwise.normalize, least=least, has_ids=ids is not None)
    replicas = None if context is None else Replicas(context, rows["x"])
    numbers = numbers_of(ids, bank_ids, rows, replicas)
    n, k = rows["x"].shape[0], rows.get("bank", rows["x"]).shape[0]
    if context is not None:
        n = None if n is None else n * context.num_replicas_in_sync
        k = n if bank is None else k
    form = FORMS[choose_form(implementation, n, k)]
    mean = tf.reduce_mean
    if replicas is not None:
        form = replicas.against_all(form, None if numbers is None else numbers.union)
        mean = replicas.mean
    score = _score(rows, pairwise, pairs, numbers, form, mean)
    excess = mean(
        mean_over_blocks(
            pairs.negative_blocks,
            lambda block: form.block_mean(
                *block.sides(rows), pairwise, block.skips_diagonal,
                None if numbers is None else numbers.of(block),
            ),
        )
    )  # fmt: skip
    if numbers is not None:
        excess = excess * (1.0 / numbers.negative_share(pairs, excess.dtype))
    penalty = pairwise.limit + excess
    if not isinstance(weight, float):  # a number stays one, which tf.cast would take for float32
        weight = tf.cast(weight, excess.dtype)
    loss = weight * penalty - score
    if check_finite and tf.executing_eagerly():
        check_alpha_value(float(weight))
        if not tf.math.is_finite(loss):
            objective = replace(settings, alpha=float(weight))
            no_pairs = None if numbers is None else numbers.explain(pairs)
            found = no_pairs or explain_non_finite(x, y, bank)
            raise found or overflowed(objective, float(loss))
    return FMICLTerms(loss, score, penalty)


def _score(
    rows: Rows,
    pairwise: Pairwise,
    pairs: Pairs,
    numbers: Numbers | None,
    form: Form,
    mean: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Mean over the anchors of the mean score of their positives."""
    if numbers is None:
        return mean(positive_scores(rows, pairwise))
    weights = numbers.weights(pairs, rows["x"].dtype)
    # Of a single array none, yet NaN if there is no positive at all.
    own = weights * (0.0 if pairs.single else positive_scores(rows, pairwise))
    n = tf.cast(tf.size(weights), weights.dtype)
    others = [
        block.share / n * form.positive_sum(
            *block.sides(rows), pairwise, block.skips_diagonal, numbers.of(block), weights
        )
        for block in pairs.positive_blocks
    ]  # fmt: skip
    return mean(own) + mean(tf.add_n(others)) if others else mean(own)
