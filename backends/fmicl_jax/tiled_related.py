"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from fmicl_core.checks import once_differentiable
from fmicl_core.objective import Block
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_jax.dense import Rows
from fmicl_jax.ops import product
from fmicl_jax.tiled import GradientSums, counted_pairs, split_tiles, tile_places, tile_size

Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def tiled_info_nce(rows: Rows, temperature: float, negatives: str) -> jax.Array:
    """InfoNCE in two passes, once differentiable; equals

        positive = (x * y).sum(axis=1) / temperature
        every = concatenate([positive[:, None], negative_scores], axis=1)
        (logsumexp(every, axis=1) - positive).mean()

    averaged over the anchor views, with negative_scores (N, all negatives of the anchor).

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        temperature: > 0.
        negatives: which negatives; its normalization has been applied.
    """
    return _info_nce(rows, temperature, negatives, tile_size())


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _info_nce(rows: Rows, temperature: float, negatives: str, tile: int) -> jax.Array:
    loss, _ = _log_sums(rows, temperature, negatives, tile)
    return loss


def _info_nce_jvp(
    negatives: str, tile: int, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    # The derivative is <gradient, tangent>: forward mode as it stands, reverse mode by transposing.
    (rows, temperature), (moves, _) = primals, tangents
    wanted = tuple(name for name, move in moves.items() if not isinstance(move, SymbolicZero))
    loss, gradients = _once(rows, temperature, negatives, tile, wanted)
    slope = jnp.zeros((), loss.dtype)
    for name in wanted:
        slope = slope + (gradients[name] * moves[name]).sum()
    return loss, slope


_info_nce.defjvp(_info_nce_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _once(
    rows: Rows, temperature: jax.Array, negatives: str, tile: int, wanted: tuple[str, ...]
) -> tuple[jax.Array, Rows]:
    loss, log_sums = _log_sums(rows, temperature, negatives, tile)
    return loss, _gradients(rows, temperature, log_sums, negatives, tile, wanted)


@_once.defjvp
def _(negatives, tile, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(2, 3))
def _log_sums(
    rows: Rows, temperature: jax.Array, negatives: str, tile: int
) -> tuple[jax.Array, dict[str, _LogSum]]:
    """The loss, and by the name of the anchors' view the log-sum-exp of every anchor, in tiles."""
    tiles = {name: split_tiles(side, tile) for name, side in rows.items()}
    positive = (tiles["x"] * tiles["y"]).sum(axis=2) / temperature
    start = _LogSum(positive + _zero(rows), jnp.ones_like(positive) + _zero(rows))
    sums = {name: start for name, _ in info_nce_anchors(negatives, "bank" in rows)}
    for block, both in info_nce_blocks(negatives, "bank" in rows):
        score, places = _scores(block, rows, tiles, temperature)
        step = partial(_add_scores, block, both, score)
        sums, _ = jax.lax.scan(step, sums, places)
    losses = [-total.log_share(positive).ravel()[: len(rows["x"])] for total in sums.values()]
    return jnp.stack(losses).mean(), sums


class _LogSum(NamedTuple):
    """The log-sum-exp of every anchor's scores as they come, from the positive on.

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    peak: jax.Array
    total: jax.Array  # of e^(score - peak)

    def add(self, place: jax.Array, scores: jax.Array, axis: int) -> _LogSum:
        """Add the scores of one tile of anchors with their negatives along `axis`."""
        before = self.peak[place]
        peak = jnp.maximum(before, scores.max(axis=axis))
        part = jnp.exp(scores - jnp.expand_dims(peak, axis)).sum(axis=axis)
        total = self.total[place] * jnp.exp(before - peak) + part
        return _LogSum(self.peak.at[place].set(peak), self.total.at[place].set(total))

    def log_share(self, scores: jax.Array) -> jax.Array:
        """The scores less the log-sum-exp: logarithms of the softmax."""
        return scores - self.peak - jnp.log(self.total)

    def at(self, place: jax.Array, axis: int) -> _LogSum:
        """Those of one tile of anchors, along the other axis of its scores than `axis`."""
        return _LogSum(*(jnp.expand_dims(part[place], axis) for part in self))


def _add_scores(
    block: Block, both: bool, score: Callable[..., jax.Array], sums: Any, place: Any
) -> tuple[Any, None]:
    i, j, _ = place
    scores = score(*place)
    sums = {**sums, block.left: sums[block.left].add(i, scores, axis=1)}
    if both:
        sums = {**sums, block.right: sums[block.right].add(j, scores, axis=0)}
    return sums, None


@partial(jax.jit, static_argnums=(3, 4, 5))
def _gradients(
    rows: Rows,
    temperature: jax.Array,
    log_sums: dict[str, _LogSum],
    negatives: str,
    tile: int,
    wanted: tuple[str, ...],
) -> Rows:
    """The gradients that are wanted, by name."""
    tiles = {name: split_tiles(side, tile) for name, side in rows.items()}
    zero = _zero(rows)
    sums = {k: GradientSums.zeros(v, k in wanted, False, zero) for k, v in tiles.items()}
    for block, both in info_nce_blocks(negatives, "bank" in rows):
        score, places = _scores(block, rows, tiles, temperature)
        step = partial(_add_gradients, block, both, score, tiles, log_sums)
        sums, _ = jax.lax.scan(step, sums, places)
    # Every anchor's positive: its probability less 1, as one expression to keep the digits.
    positive = (tiles["x"] * tiles["y"]).sum(axis=2) / temperature
    pulls = jnp.stack([jnp.expm1(total.log_share(positive)) for total in log_sums.values()])
    n = len(rows["x"])
    pull = pulls.sum(axis=0).ravel()[:n, None]
    own = {"x": pull * rows["y"], "y": pull * rows["x"]}
    scale = 1.0 / (temperature * len(log_sums) * n)
    sides = {name: sums[name].finish(1.0, 0.0, 1.0, rows[name]) for name in wanted}
    return {name: scale * (side + own.get(name, 0.0)) for name, side in sides.items()}


def _add_gradients(
    block: Block,
    both: bool,
    score: Callable[..., jax.Array],
    tiles: Rows,
    log_sums: dict[str, _LogSum],
    sums: Any,
    place: Any,
) -> tuple[Any, None]:
    i, j, _ = place
    scores = score(*place)
    weight = jnp.exp(log_sums[block.left].at(i, axis=1).log_share(scores))
    if both:
        weight = weight + jnp.exp(log_sums[block.right].at(j, axis=0).log_share(scores))
    sums = {**sums, block.left: sums[block.left].add(i, weight, tiles[block.right][j])}
    return {**sums, block.right: sums[block.right].add(j, weight.T, tiles[block.left][i])}, None


def _scores(
    block: Block, rows: Rows, tiles: Rows, temperature: jax.Array
) -> tuple[Callable[..., jax.Array], Places]:
    """The scores of the tile at a place, and the places of the block.

    A symmetric block has each pair once, i < j. Pairs that do not count score -inf.
    """
    left, right = tiles[block.left], tiles[block.right]
    n, k = len(rows[block.left]), len(rows[block.right])

    def at_edge(s: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        keep = counted_pairs(i, j, s.shape, n, k, block.symmetric, block.skips_diagonal)
        return jnp.where(keep, s, -jnp.inf)

    def score(i: jax.Array, j: jax.Array, edge: jax.Array) -> jax.Array:
        s = product(left[i] / temperature, right[j].T)
        return jax.lax.cond(edge, at_edge, lambda s, i, j: s, s, i, j)

    shapes = left.shape[:2], right.shape[:2]
    return score, tile_places(*shapes, n, k, block.symmetric, block.skips_diagonal)


def _zero(rows: Rows) -> jax.Array:
    # Inside jax.shard_map what a scan carries must vary over the mesh axes that the features do.
    return 0.0 * sum(side[0, 0] for side in rows.values())
