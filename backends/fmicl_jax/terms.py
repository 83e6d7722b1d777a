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
from fmicl_core.pairs import mean_over_blocks
from fmicl_core.renamed import with_old_names
from fmicl_jax.dense import dense_block_mean, positive_scores
from fmicl_jax.distributed import BlockMean, against_all, axis_size, shared_mean
from fmicl_jax.fused import fused_for
from fmicl_jax.inputs import explain_non_finite, prepare, weight_of
from fmicl_jax.tiled import tiled_block_mean


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
    implementation: str,
    check_finite: bool,
    axis_name: str | None,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss but alpha, which may be an array.
        alpha, x, y, bank, implementation, check_finite, axis_name: as for `fmicl_loss`.
    """
    check_bool("check_finite", check_finite)
    implementation = check_implementation(implementation, WITH_FUSED)
    weight, pairwise = weight_of(alpha), settings.pairwise
    rows = prepare(x, y, bank, pairwise.normalize, least=2 if axis_name is None else 1)
    devices = 1 if axis_name is None else axis_size(axis_name, x)
    n, k = devices * len(x), len(bank) if bank is not None else devices * len(x)
    dtype = jnp.result_type(*(side for side in (x, y, bank) if side is not None)).name
    fused = fused_for(implementation, pairwise, x, dtype, n, k)
    dense = fused is None and choose_form(implementation, n, k) == "dense"
    block_mean: BlockMean = dense_block_mean if dense else partial(tiled_block_mean, fused=fused)
    mean: Callable[[jax.Array], jax.Array] = jnp.mean
    if axis_name is not None:
        block_mean = against_all(block_mean, axis_name)
        mean = partial(shared_mean, axis_name=axis_name)
    score = mean(positive_scores(rows, pairwise))
    excess = mean(
        mean_over_blocks(
            settings.blocks(bank is not None),
            lambda block: block_mean(*block.sides(rows), pairwise, block.skips_diagonal),
        )
    )
    penalty = pairwise.limit + excess
    loss = (weight * penalty).astype(excess.dtype) - score
    if check_finite and not isinstance(loss, jax.core.Tracer):
        check_alpha_value(float(weight))
        if not jnp.isfinite(loss):
            objective = replace(settings, alpha=float(weight))
            raise explain_non_finite(x, y, bank) or overflowed(objective, float(loss))
    return FMICLTerms(loss, score, penalty)
