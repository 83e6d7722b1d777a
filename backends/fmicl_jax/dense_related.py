"""InfoNCE with every pair at once, differentiable to any order, O(N^2) memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fmicl_core.pairs import Pairs
from fmicl_core.related import SoftmaxBlock, info_nce_anchors, info_nce_blocks
from fmicl_jax.distributed import union_of
from fmicl_jax.ops import JAX, product
from fmicl_jax.plan import Rows


def dense_info_nce(
    rows: Rows,
    pairs: Pairs,
    numbers: dict[str, jax.Array] | None,
    weights: jax.Array | None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean over anchors of log Z, less s(x_i, y_i) where there is a y; a score is s = x . y.

    Anchors of a single array that have no positive count as 0.

    Args:
        rows: features by the names "x" (N, D) and, if given, "y" (N, D) and "bank" (K, D).
        pairs: scheme of negatives and positives.
        numbers: numbers of the rows by name, equal where their ids are; None without ids.
        weights: (N,) weight of each positive of an anchor, 0 where it has none; None without ids.
        axis_name: axis of the devices that share the rows, a bank excepted, or None. The mean is
            then over this device's anchors.
    """
    others, others_numbers = rows, numbers
    first: int | jax.Array = 0
    if axis_name is not None:
        others, others_numbers = (union_of(of, axis_name) for of in (rows, numbers))
        first = len(rows["x"]) * jax.lax.axis_index(axis_name)
    losses = []
    blocks = info_nce_blocks(pairs, numbers is not None)
    for anchor, _ in info_nce_anchors(pairs):
        every = jnp.concatenate(
            [
                _logits(rows, others, anchor, softmax, numbers, others_numbers, first)
                for softmax in blocks
                if anchor == softmax.block.left or (softmax.both and anchor == softmax.block.right)
            ],
            axis=1,
        )
        log_z = jax.nn.logsumexp(every, axis=1) if numbers is None else _log_sum(every)
        if weights is not None and pairs.single:
            losses.append(jnp.where(weights == 0, 0.0, log_z).mean())
        else:
            margin = log_z - (rows["x"] * rows["y"]).sum(axis=1)
            # With (x_i, y_i) in Z it is log Z less the score, and where that is small nothing
            # cancels.
            losses.append((margin if pairs.decoupled else JAX.softplus(margin)).mean())
    return jnp.stack(losses).mean()


def _logits(
    rows: Rows,
    others: Rows,
    anchor: str,
    softmax: SoftmaxBlock,
    numbers: dict[str, jax.Array] | None,
    others_numbers: dict[str, jax.Array] | None,
    first: int | jax.Array,
) -> jax.Array:
    """Scores of the anchors with the rows on the other side of a block; -inf: does not count.

    The anchors are the rows from `first` on among the others.
    """
    block, _, which = softmax
    other = block.right if anchor == block.left else block.left
    s = product(rows[anchor], others[other].T)
    if block.skips_diagonal:
        places = jnp.arange(s.shape[0]) + first
        s = jnp.where(places[:, None] == jnp.arange(s.shape[1]), -jnp.inf, s)
    if which == "every" or numbers is None or others_numbers is None or other not in numbers:
        return s
    equal = numbers[anchor][:, None] == others_numbers[other][None, :]
    return jnp.where(equal if which == "equal" else ~equal, s, -jnp.inf)


def _log_sum(logits: jax.Array) -> jax.Array:
    """Log-sum-exp of every row; -inf where none counts, with no NaN in the derivative."""
    none = (logits == -jnp.inf).all(axis=1)
    return jnp.where(
        none, -jnp.inf, jax.nn.logsumexp(jnp.where(none[:, None], 0.0, logits), axis=1)
    )
