"""The loss and its two terms, of whatever form, of this process or of all devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmicl_core import FMICL
from fmicl_core.checks import check_alpha_value, check_bool, overflowed
from fmicl_core.forms import WITH_FUSED, check_implementation, choose_form
from fmicl_core.pairs import Block, mean_over_blocks, pairs_of
from fmicl_core.renamed import with_old_names
from fmicl_jax.dense import dense_block_mean, dense_positive_mean, positive_scores
from fmicl_jax.distributed import BlockMean, against_all, axis_size, shared_mean
from fmicl_jax.fused import fused_for
from fmicl_jax.ids import row_ids
from fmicl_jax.inputs import explain_non_finite, largest_block, prepare, weight_of
from fmicl_jax.tiled import tiled_block_mean, tiled_positive_mean


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs."""

    loss: jax.Array
    score: jax.Array
    penalty: jax.Array


def terms_of(
    settings: FMICL,
    alpha: float | jax.Array,
    x: jax.Array,
    y: jax.Array | None,
    bank: jax.Array | None,
    ids: jax.Array | None,
    bank_ids: jax.Array | None,
    implementation: str,
    check_finite: bool,
    axis_name: str | None,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss but alpha, which may be an array.
        alpha, x, y, bank, ids, bank_ids, implementation, check_finite, axis_name: as for
            `fmicl_loss`.
    """
    check_bool("check_finite", check_finite)
    implementation = check_implementation(implementation, WITH_FUSED)
    weight, pairwise = weight_of(alpha), settings.pairwise
    pairs = pairs_of(settings.negatives, settings.positives, y, bank, ids, bank_ids)
    least, has_ids = 2 if axis_name is None else 1, ids is not None
    rows = prepare(x, y, bank, pairwise.normalize, least=least, has_ids=has_ids)
    devices = 1 if axis_name is None else axis_size(axis_name, x)
    n, k = largest_block(rows, has_ids, devices)
    known = None if ids is None else row_ids(ids, bank_ids, rows, axis_name)
    dtype = jnp.result_type(*(side for side in (x, y, bank) if side is not None)).name
    among_ids = has_ids and bool(pairs.positive_blocks)
    fused = fused_for(implementation, pairwise, x, dtype, n, k, among_ids)
    dense = fused is None and choose_form(implementation, n, k) == "dense"
    block_mean: BlockMean = dense_block_mean if dense else partial(tiled_block_mean, fused=fused)
    positive_mean: BlockMean = (
        dense_positive_mean if dense else partial(tiled_positive_mean, fused=fused)
    )
    mean: Callable[[jax.Array], jax.Array] = jnp.mean
    if axis_name is not None:
        block_mean, positive_mean = (against_all(f, axis_name) for f in (block_mean, positive_mean))
        mean = partial(shared_mean, axis_name=axis_name)

    def excess_of(block: Block) -> jax.Array:
        numbers = None if known is None else known.of(block.left, block.right)
        return block_mean(*block.sides(rows), pairwise, block.skips_diagonal, numbers)

    excess = mean(mean_over_blocks(pairs.negative_blocks, excess_of))
    scores = [] if y is None else [positive_scores(rows, pairwise)]
    if known is not None:
        weights = known.weights(pairs, excess.dtype)
        scores = [weights * score for score in scores]
        for block in pairs.positive_blocks:
            how = pairwise, block.skips_diagonal, known.of(block.left, block.right), weights
            scores.append(block.share * positive_mean(*block.sides(rows), *how))
        excess = excess / mean(known.negative_shares(pairs, rows))
    score = sum((mean(score) for score in scores[1:]), mean(scores[0]))
    penalty = pairwise.limit + excess
    loss = (weight * penalty).astype(excess.dtype) - score
    if check_finite and not isinstance(loss, jax.core.Tracer):
        check_alpha_value(float(weight))
        if not jnp.isfinite(loss):
            objective = replace(settings, alpha=float(weight))
            why = None if known is None else known.explain(pairs, rows)
            raise why or explain_non_finite(x, y, bank) or overflowed(objective, float(loss))
    return FMICLTerms(loss, score, penalty)
