"""The loss and its two terms, of whatever form, of this process or of all devices."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmicl_core import FMICL, Divergence, Pairwise, Similarity
from fmicl_core.checks import check_bool, overflowed
from fmicl_core.forms import WITH_FUSED, check_implementation, choose_form
from fmicl_core.objective import SCALARS, number_for
from fmicl_core.pairs import Block, mean_over_blocks, pairs_of
from fmicl_core.renamed import with_old_names
from fmicl_jax.dense import dense_block_mean, dense_positive_mean, positive_scores
from fmicl_jax.distributed import (
    BlockMean,
    against_all,
    axis_size,
    shared_mean,
    tell_of_devices,
)
from fmicl_jax.fused import fused_for
from fmicl_jax.ids import row_ids
from fmicl_jax.inputs import (
    check_known_scalar,
    checked_scalar,
    explain_non_finite,
    is_array,
    largest_block,
    prepare,
)
from fmicl_jax.plan import Rows, Scalars
from fmicl_jax.tiled import tiled_block_mean, tiled_positive_mean


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs.

    alpha is the weight that was used, a constant to derivatives.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import fmicl_terms
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss, score, penalty, alpha = fmicl_terms(x, y, divergence="js")
        >>> round(float(loss), 3), round(float(-score + alpha * penalty), 3)
        (-23.879, -23.879)
    """

    loss: jax.Array
    score: jax.Array
    penalty: jax.Array
    alpha: jax.Array


def settings_of(
    divergence: Divergence | str,
    similarity: Similarity | str,
    scalars: Scalars,
    negatives: str,
    positives: str,
    normalize: bool,
    strength: float | None = None,
) -> tuple[FMICL, Scalars]:
    """The settings, in which a number stands for every scalar that is an array; and the scalars.

    Args:
        divergence, similarity, negatives, positives, normalize, strength: as for `fmicl_loss`.
        scalars: alpha, logit_scale and logit_bias as for `fmicl_loss`.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    alpha = scalars.alpha
    checked = Scalars(
        alpha if isinstance(alpha, str) else checked_scalar("alpha", alpha),
        *(
            None if value is None else checked_scalar(name, value)
            for name, value in zip(SCALARS[1:], scalars[1:], strict=True)
        ),
    )
    numbers = {name: number_for(name, v, is_array(v)) for name, v in checked._asdict().items()}
    fixed = negatives, normalize, positives
    alpha = numbers.pop("alpha")
    return FMICL(divergence, similarity, alpha, *fixed, **numbers, strength=strength), checked


def with_scalars(settings: FMICL, scalars: Scalars) -> FMICL:
    """The settings with the numbers that the scalars hold."""
    given = scalars._asdict().items()
    numbers: Any = {k: float(v) for k, v in given if not isinstance(v, str | None)}
    return replace(settings, **numbers)


def terms_of(
    settings: FMICL,
    scalars: Scalars,
    x: jax.Array,
    y: jax.Array | None,
    bank: jax.Array | None,
    ids: jax.Array | None,
    bank_ids: jax.Array | None,
    implementation: str,
    check_finite: bool,
    axis_name: str | None,
    *,
    each_pair: bool = False,
    loss_name: str = "fmicl_loss",
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        settings: settings of the loss.
        scalars: scalars of the loss, which may be arrays where the settings have numbers.
        x, y, bank, ids, bank_ids, implementation, check_finite, axis_name: as for `fmicl_loss`.
        each_pair: whether every pair counts alike, as in SigLIP: both terms are sums over their
            pairs, divided by N and by N (N - 1), and alpha is N - 1.
        loss_name: name of the loss in warnings.
    """
    tell_of_devices(loss_name, axis_name)
    check_bool("check_finite", check_finite)
    implementation = check_implementation(implementation, WITH_FUSED)
    pairwise, scale, bias = settings.pairwise, None, None
    if settings.logits is not None:
        scale, bias = settings.critic.logits(scalars.logit_scale, scalars.logit_bias)
    pairs = pairs_of(settings.negatives, settings.positives, y, bank, ids, bank_ids)
    least, has_ids = 2 if axis_name is None else 1, ids is not None
    rows = prepare(x, y, bank, pairwise.normalize, least=least, has_ids=has_ids, logit_scale=scale)
    bias = None if bias is None else jnp.asarray(bias, rows["x"].dtype)
    devices = 1 if axis_name is None else axis_size(axis_name, x)
    n, k = largest_block(rows, has_ids, devices)
    known = None if ids is None else row_ids(ids, bank_ids, rows, axis_name)
    dtype = jnp.result_type(*(side for side in (x, y, bank) if side is not None)).name
    among_ids = has_ids and bool(pairs.positive_blocks)
    form_for = partial(
        _form, implementation=implementation, x=x, dtype=dtype, n=n, k=k, axis_name=axis_name
    )
    form = form_for(pairwise, bias, positives=among_ids)
    mean = partial(shared_mean, axis_name=axis_name)
    shares = None if known is None else mean(known.negative_shares(pairs, rows))

    def penalty_of(pairwise: Pairwise, rows: Rows, form: Form) -> jax.Array:
        """Mean over the negative pairs."""

        def excess_of(block: Block) -> jax.Array:
            numbers = None if known is None else known.of(block.left, block.right)
            return form.block_mean(*block.sides(rows), pairwise, block.skips_diagonal, numbers)

        excess = mean(mean_over_blocks(pairs.negative_blocks, excess_of))
        if shares is not None:
            excess = excess / (jnp.where(shares > 0, 1.0, 0.0) if each_pair else shares)
        return pairwise.limit + excess

    penalty = penalty_of(pairwise, rows, form)
    scores = [] if y is None else [positive_scores(rows, pairwise, bias)]
    if known is not None:
        weights = jnp.ones_like(scores[0]) if each_pair else known.weights(pairs, penalty.dtype)
        scores = [weights * score for score in scores]
        for block in pairs.positive_blocks:
            how = pairwise, block.skips_diagonal, known.of(block.left, block.right), weights
            scores.append(block.share * form.positive_mean(*block.sides(rows), *how))
    score = sum((mean(score) for score in scores[1:]), mean(scores[0]))
    if each_pair:
        scalars = scalars._replace(alpha=devices * len(x) - 1.0)
    if settings.strength is None:
        alpha = jnp.asarray(scalars.alpha, penalty.dtype)
    elif pairwise.ratio is pairwise:
        alpha = automatic(settings.strength, jax.lax.stop_gradient(penalty))
    else:  # of constants, so that no sweep makes a gradient
        still, still_bias = jax.lax.stop_gradient((rows, bias))
        ratio = penalty_of(pairwise.ratio, still, form_for(pairwise.ratio, still_bias))
        alpha = automatic(settings.strength, ratio)
    loss = alpha * penalty - score
    if check_finite and not isinstance(loss, jax.core.Tracer):
        for name, value in zip(SCALARS, scalars, strict=True):
            check_known_scalar(name, value)
        if not jnp.isfinite(loss):
            objective = with_scalars(settings, scalars)
            why = None if known is None else known.explain(pairs, rows)
            why = why or explain_non_finite(x, y, bank)
            raise why or overflowed(objective, float(loss), float(alpha))
    return FMICLTerms(loss, score, penalty, jax.lax.stop_gradient(alpha))


def automatic(strength: float, ratio: jax.Array) -> jax.Array:
    """The alpha that is found from the mean of u over the negative pairs.

    NaN where that is infinite: the penalty would be left out, and nothing would say so.
    """
    return strength / jnp.where(jnp.isinf(ratio), jnp.nan, ratio)


class Form(NamedTuple):
    """The functions of a block that the forms each have: see `fmicl_jax.dense`."""

    block_mean: BlockMean
    positive_mean: BlockMean


def _form(
    pairwise: Pairwise,
    bias: jax.Array | None,
    positives: bool = False,
    *,
    implementation: str,
    x: jax.Array,
    dtype: str,
    n: int,
    k: int,
    axis_name: str | None,
) -> Form:
    """The form that computes blocks of these pairs.

    Args:
        bias: constant of z that learns, or None.
        pairwise, positives, implementation, x, dtype, n, k: as for `fused_for`.
        axis_name: axis of the devices, or None.
    """
    fused = fused_for(implementation, pairwise, x, dtype, n, k, positives)
    if fused is None and choose_form(implementation, n, k) == "dense":
        means = (partial(mean, bias=bias) for mean in (dense_block_mean, dense_positive_mean))
        return Form(*(m if axis_name is None else against_all(m, axis_name) for m in means))
    tiles: dict[str, Any] = {"bias": bias, "fused": fused, "axis_name": axis_name}
    return Form(partial(tiled_block_mean, **tiles), partial(tiled_positive_mean, **tiles))
