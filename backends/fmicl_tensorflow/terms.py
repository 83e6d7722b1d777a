"""The loss and its two terms, of whatever form, of this process or of all replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from fmicl_core import FMICL, Pairwise
from fmicl_core.checks import check_bool, overflowed
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
from fmicl_tensorflow.inputs import explain_non_finite, prepare
from fmicl_tensorflow.ring import ring_mean
from fmicl_tensorflow.scalars import Scalars, as_tensor, check_values_of
from fmicl_tensorflow.tiled import tiled_block_mean, tiled_positive_sum


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs.

    alpha is the weight that was used, a constant to derivatives.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import fmicl_terms
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss, score, penalty, alpha = fmicl_terms(x, y, divergence="js")
        >>> round(float(loss), 3), round(float(-score + alpha * penalty), 3)
        (-23.879, -23.879)
    """

    loss: tf.Tensor
    score: tf.Tensor
    penalty: tf.Tensor
    alpha: tf.Tensor


#: The forms, as `choose_form` calls them.
FORMS = {
    "dense": Form(dense_block_mean, dense_positive_sum),
    "tiled": Form(tiled_block_mean, tiled_positive_sum),
}
#: The same of constants, whose gradients are not asked for.
CONSTANT_FORMS = FORMS | {
    "tiled": Form(partial(tiled_block_mean, gradient=False), tiled_positive_sum),
}


def terms_of(
    settings: FMICL,
    scalars: Scalars,
    x: tf.Tensor,
    y: tf.Tensor | None,
    bank: tf.Tensor | None,
    ids: tf.Tensor | None,
    bank_ids: tf.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: bool,
    each_pair: bool = False,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss, which hold numbers in place of `scalars` that are tensors.
        scalars: alpha, logit_scale and logit_bias as they were given.
        x, y, bank, ids, bank_ids, implementation, check_finite, distributed: as for `fmicl_loss`.
        each_pair: whether every pair counts alike, as in SigLIP: both terms are sums over their
            pairs, divided by N and by N (N - 1), and alpha is N - 1.
    """
    check_bool("check_finite", check_finite)
    check_bool("distributed", distributed)
    check_implementation(implementation)
    pairs = pairs_of(settings.negatives, settings.positives, y, bank, ids, bank_ids)
    pairwise, (scale, bias) = settings.pairwise, scalars.logits(settings)
    context = replica_context() if distributed else None
    least = 2 if context is None else 0
    rows = prepare(x, y, bank, pairwise.normalize, scale, least=least, has_ids=ids is not None)
    dtype = rows["x"].dtype
    bias = None if bias is None else as_tensor(bias, dtype)
    replicas = None if context is None else Replicas(context, rows["x"])
    numbers = numbers_of(ids, bank_ids, rows, replicas)
    n = rows["x"].shape[0] if replicas is None else replicas.total_if_known(rows["x"].shape[0])
    k = n if bank is None else rows["bank"].shape[0]
    chosen, mean = choose_form(implementation, n, k), tf.reduce_mean
    form, still_form = FORMS[chosen], CONSTANT_FORMS[chosen]
    if replicas is not None:
        union = None if numbers is None else numbers.union
        form, still_form = (replicas.against_all(f, union) for f in (form, still_form))
        mean = replicas.mean
    ring = None if replicas is None or chosen == "dense" else replicas
    score = _score(rows, pairwise, bias, pairs, numbers, form, mean, ring, each_pair)

    def penalty_of(
        pairwise: Pairwise, rows: Rows, bias: tf.Tensor | None, form: Form, gradient: bool = True
    ) -> tf.Tensor:
        """Mean over the negative pairs."""
        blocks = pairs.negative_blocks
        if ring is None or pairs.has_bank:  # every replica has the whole bank
            excess = mean(
                mean_over_blocks(
                    blocks,
                    lambda block: form.block_mean(
                        *block.sides(rows), pairwise, bias, block.skips_diagonal,
                        None if numbers is None else numbers.of(block),
                    ),
                )
            )  # fmt: skip
        else:
            part = ring_mean(rows, blocks, pairwise, bias, ring, numbers, gradient=gradient)
            excess = ring.sum(part)
        if numbers is not None:
            share = numbers.negative_share(pairs, dtype)
            excess = excess * (1.0 / share)  # NaN where there is no negative pair
            excess = excess * share if each_pair else excess
        return pairwise.limit + excess

    penalty = penalty_of(pairwise, rows, bias, form)
    if each_pair:
        total = tf.shape(rows["x"])[0] if replicas is None else replicas.total
        scalars = scalars._replace(alpha=tf.cast(total - 1, dtype))
    if settings.strength is None:
        alpha = as_tensor(scalars.alpha, dtype)
    elif pairwise.ratio is pairwise:
        alpha = automatic(settings.strength, tf.stop_gradient(penalty))
    else:
        still = {name: tf.stop_gradient(side) for name, side in rows.items()}
        still_bias = None if bias is None else tf.stop_gradient(bias)
        ratio = penalty_of(pairwise.ratio, still, still_bias, still_form, gradient=False)
        alpha = automatic(settings.strength, ratio)
    loss = alpha * penalty - score
    if check_finite and tf.executing_eagerly():
        check_values_of(**scalars._asdict())
        if not tf.math.is_finite(loss):
            objective = replace(settings, **scalars.values())
            no_pairs = None if numbers is None else numbers.explain(pairs)
            found = no_pairs or explain_non_finite(x, y, bank)
            raise found or overflowed(objective, float(loss), float(alpha))
    return FMICLTerms(loss, score, penalty, tf.stop_gradient(alpha))


def automatic(strength: float, ratio: tf.Tensor) -> tf.Tensor:
    """The alpha that is found from the mean of u over the negative pairs.

    NaN where that is infinite: the penalty would be left out, and nothing would say so.
    """
    nan = tf.constant(float("nan"), ratio.dtype)
    return strength / tf.where(tf.math.is_inf(ratio), nan, ratio)


def _score(
    rows: Rows,
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    pairs: Pairs,
    numbers: Numbers | None,
    form: Form,
    mean: Callable[[tf.Tensor], tf.Tensor],
    ring: Replicas | None,
    each_pair: bool,
) -> tf.Tensor:
    """Mean over the anchors of the mean score of their positives, or of the sum."""
    if numbers is None:
        return mean(positive_scores(rows, pairwise, bias))
    weights = numbers.weights(pairs, rows["x"].dtype)
    weights = tf.ones_like(weights) if each_pair else weights
    # Of a single array none, yet NaN if there is no positive at all.
    own = weights * (0.0 if pairs.single else positive_scores(rows, pairwise, bias))
    blocks = pairs.positive_blocks
    n = tf.cast(tf.maximum(tf.size(weights), 1), weights.dtype)  # a replica may have no rows
    if ring is not None and blocks:
        part = ring_mean(rows, blocks, pairwise, bias, ring, numbers, weights)
        return mean(own) + ring.sum(part)
    others = [
        block.share / n * form.positive_sum(
            *block.sides(rows), pairwise, bias, block.skips_diagonal, numbers.of(block), weights
        )
        for block in blocks
    ]  # fmt: skip
    return mean(own) + mean(tf.add_n(others)) if others else mean(own)
