"""The losses as users write them in plain JAX: what ours are timed against, all under jax.jit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.cases import CHUNK, Speed, is_single
from fmicl_core import FMICL
from fmicl_core.divergences import LOG2
from fmicl_core.objective import DEFAULTS
from fmicl_core.related import RELATED_DEFAULTS

Array = jax.Array
#: Factor of x . y and constant of z, as f-MICL has them by default.
SCALE, _, BIAS = FMICL().coefficients()
#: Takes a piece and the arrays whose rows are cut, then those that are whole; adds up the pieces.
Each = Callable[..., Array]


def plain_loss(case: Speed) -> Callable[..., Array]:
    """The loss of a case in the form that it names, of x, y and the arguments of ours.

    "compiled_dense" is one matrix of all pairs. "compiled_chunks" is a sum over chunks of rows,
    each computed again in the backward pass: memory is linear, as Inf-CL's is.
    """
    loss = {"siglip": siglip, "clip": clip, "info_nce": info_nce}.get(case.loss)
    loss = loss or partial(jensen_shannon, single=is_single(case))
    each = in_chunks if case.form == "compiled_chunks" else at_once
    return partial(loss, each, negatives=case.negatives)


def at_once(piece: Each, cut: tuple[Array, ...], *whole: Any) -> Array:
    """The piece of all rows."""
    return piece(*cut, *whole)


def in_chunks(piece: Each, cut: tuple[Array, ...], *whole: Any) -> Array:
    """The sum of the piece over chunks of rows, each computed again in the backward pass."""
    rows = min(CHUNK, len(cut[0]))
    parts = tuple(v.reshape(-1, rows, *v.shape[1:]) for v in cut)
    return jax.lax.map(jax.checkpoint(lambda some: piece(*some, *whole)), parts).sum()


def unit(v: Array) -> Array:
    """Rows of unit length."""
    length = jnp.linalg.norm(v.astype(jnp.float32), axis=1, keepdims=True)
    return (v / length).astype(v.dtype)


def logits(rows: Array, others: Array, scale: Any, bias: Any = 0.0) -> Array:
    """Logits of all pairs, scale (rows . others) + bias, float32."""
    return scale * jnp.matmul(rows, others.T, preferred_element_type=jnp.float32) + bias


def twins(x: Array, y: Array, scale: Any, bias: Any = 0.0) -> Array:
    """The same of row i with row i."""
    return scale * (x * y).astype(jnp.float32).sum(axis=1) + bias


def siglip(
    each: Each, x: Array, y: Array, logit_scale: Any, logit_bias: Any, negatives: str
) -> Array:
    """SigLIP of two views."""
    x, y, scalars = unit(x), unit(y), (logit_scale, logit_bias)
    total = each(softplus_sum, (x,), y, *scalars)
    return (total - twins(x, y, *scalars).sum()) / len(x)  # softplus(-z) = softplus(z) - z


def clip(each: Each, x: Array, y: Array, logit_scale: Any, negatives: str) -> Array:
    """CLIP of two views."""
    x, y = unit(x), unit(y)
    total = each(log_sums, (x,), y, logit_scale) + each(log_sums, (y,), x, logit_scale)
    return 0.5 * total / len(x) - twins(x, y, logit_scale).mean()


def info_nce(each: Each, x: Array, y: Array, negatives: str, bank: Array | None = None) -> Array:
    """InfoNCE at its default temperature: one direction, both with both views, or with a bank."""
    x, y, scale = unit(x), unit(y), 1.0 / RELATED_DEFAULTS.temperature
    positive = twins(x, y, scale)
    if bank is not None:
        total = each(log_sums_beside, (x, positive), unit(bank), scale)
        return total / len(x) - positive.mean()
    if negatives == "cross":
        return each(log_sums, (x,), y, scale) / len(x) - positive.mean()
    rows = jnp.concatenate((x, y))
    total = each(log_sums_of_others, (rows, jnp.arange(len(rows))), rows, scale)
    return total / len(rows) - positive.mean()


def jensen_shannon(
    each: Each, x: Array, y: Array | None = None, *, negatives: str, single: bool,
    bank: Array | None = None, ids: Array | None = None,
    logit_scale: Any = SCALE, logit_bias: Any = BIAS,
) -> Array:  # fmt: skip
    """Jensen-Shannon f-MICL, with z = logit_scale (x . y) + logit_bias."""
    x = unit(x)
    y = x if y is None else unit(y)
    scalars, alpha, n = (logit_scale, logit_bias), DEFAULTS.alpha, len(x)
    pool = y if negatives == "cross" else x
    others = pool if bank is None else unit(bank)
    own = twins(x, others[:n], *scalars)
    if ids is not None:  # with one array of rows, or "cross": negatives where positives are
        same = jnp.bincount(ids, length=n)[ids]
        weights = 1.0 / (n * jnp.maximum(same - int(single), 1))
        share = alpha / (n * n - same.astype(jnp.float32).sum())
        total = each(labelled_sum, (x, ids, weights), others, ids, share, *scalars)
        if single:
            total -= (weights * jax.nn.softplus(-own)).sum()
        return total - (alpha + 1.0) * LOG2
    total = each(softplus_sum, (x,), others, *scalars)
    if bank is None:
        total -= jax.nn.softplus(own).sum()
    pairs = n * (len(others) - (bank is None))
    positive = twins(x, y, *scalars)
    return alpha * (total / pairs - LOG2) + jax.nn.softplus(-positive).mean() - LOG2


def softplus_sum(rows: Array, others: Array, scale: Any, bias: Any) -> Array:
    """Sum of softplus(z)."""
    return jax.nn.softplus(logits(rows, others, scale, bias)).sum()


def labelled_sum(
    rows: Array, ids: Array, weights: Array, others: Array, other_ids: Array, share: Any,
    scale: Any, bias: Any,
) -> Array:  # fmt: skip
    """Sum of the weighted scores of equal ids and of the penalties of the others."""
    z = logits(rows, others, scale, bias)
    equal = ids[:, None] == other_ids[None, :]
    scores = weights[:, None] * jax.nn.softplus(-z)
    return jnp.where(equal, scores, share * jax.nn.softplus(z)).sum()


def log_sums(rows: Array, others: Array, scale: Any) -> Array:
    """Sum of the logarithms of each row's sum of exponentials."""
    return jax.nn.logsumexp(logits(rows, others, scale), axis=1).sum()


def log_sums_beside(rows: Array, positive: Array, others: Array, scale: Any) -> Array:
    """The same with the positive pair's logit among the exponents."""
    sums = jax.nn.logsumexp(logits(rows, others, scale), axis=1)
    return jnp.logaddexp(sums, positive).sum()


def log_sums_of_others(rows: Array, places: Array, others: Array, scale: Any) -> Array:
    """The same without the row itself, which is the one of `others` at its place."""
    itself = places[:, None] == jnp.arange(len(others))
    z = jnp.where(itself, -jnp.inf, logits(rows, others, scale))
    return jax.nn.logsumexp(z, axis=1).sum()
