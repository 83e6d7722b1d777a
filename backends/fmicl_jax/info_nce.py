"""InfoNCE and its kin, CLIP, DCL and DHEL: the softmaxes in some form, and what ids add to them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_positives
from fmicl_jax.dense_related import dense_info_nce
from fmicl_jax.distributed import axis_size, shared_mean
from fmicl_jax.ids import RowIds, row_ids
from fmicl_jax.inputs import check_known_scalar, checked_scalar, largest_block, prepare
from fmicl_jax.plan import Rows, Scalar
from fmicl_jax.tiled_related import tiled_info_nce


def info_nce_of(
    pairs: Pairs,
    scale: tuple[str, Scalar],
    x: jax.Array,
    y: jax.Array | None,
    bank: jax.Array | None,
    ids: jax.Array | None,
    bank_ids: jax.Array | None,
    normalize: bool,
    implementation: str,
    axis_name: str | None,
) -> jax.Array:
    """The loss of `info_nce_loss` and its kin; what all of these call.

    Args:
        pairs: pairs of the arrays, and which of them stand in softmaxes.
        scale: "temperature" or "logit_scale", and its value.
        x, y, bank, ids, bank_ids, normalize, implementation, axis_name: as for `info_nce_loss`.
    """
    name, value = scale[0], checked_scalar(*scale)
    check_known_scalar(name, value)
    check_implementation(implementation)
    has_ids, least = ids is not None, 2 if axis_name is None else 1
    scaled: dict[str, Any] = {name: value}
    rows = prepare(x, y, bank, normalize, least=least, has_ids=has_ids, **scaled)
    devices = 1 if axis_name is None else axis_size(axis_name, x)
    mean = partial(shared_mean, axis_name=axis_name)
    tiled = choose_form(implementation, *largest_block(rows, has_ids, devices)) == "tiled"
    info_nce = tiled_info_nce if tiled else dense_info_nce
    if ids is None:
        return mean(info_nce(rows, pairs, None, None, axis_name))
    known = row_ids(ids, bank_ids, rows, axis_name)
    some = mean(known.negative_shares(pairs, rows)) > 0
    # NaN if no pair is positive, or none is negative.
    weights = jnp.where(some, known.weights(pairs, rows["x"].dtype), jnp.nan)
    loss = info_nce(rows, pairs, known.numbers, weights, axis_name)
    loss = mean(loss + _of_positives(rows, pairs, known, weights))
    checked = not isinstance(loss, jax.core.Tracer)
    error = known.explain(pairs, rows) if checked and not jnp.isfinite(loss) else None
    if error is not None:
        raise error
    return loss


def _of_positives(rows: Rows, pairs: Pairs, known: RowIds, weights: jax.Array) -> jax.Array:
    """What the mean over the positives has beside the softmaxes; 0 where all ids differ.

    A sum of scores over rows with equal ids is a score of the sum of these rows.
    """
    losses, of = [], info_nce_positives(pairs)
    sums = {view: known.sums(rows[view]) for view in sorted({*sum(of.values(), ())})}
    for anchor, views in of.items():
        others = jnp.zeros_like(rows[anchor])
        for view in views:
            others += sums[view] - rows[view]  # less itself, or its own other view
        loss = -weights * (rows[anchor] * others).sum(axis=1)
        if not pairs.single:
            loss += (1.0 - weights) * (rows["x"] * rows["y"]).sum(axis=1)
        losses.append(loss.mean())
    return jnp.stack(losses).mean()
