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
from fmicl_core.forms import tile_size
from fmicl_core.pairs import Block
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_jax.dense import Rows
from fmicl_jax.ops import JAX, product
from fmicl_jax.tiled import GradientSums, counted_pairs, split_tiles, tile_places

Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def tiled_info_nce(rows: Rows, temperature: float, negatives: str) -> jax.Array:
    """InfoNCE in two passes, once differentiable; equals

        positive = (x * y).sum(axis=1) / temperature
        every = concatenate([positive[:, None], negative_scores], axis=1)
        (logsumexp(every, axis=1) - positive).mean()

    averaged over the anchor views, with negative_scores (N, all negatives of the anchor).

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        temperature: temperature > 0 that scores are divided by.
        negatives: name of the scheme of negatives.
    """
    return _info_nce(rows, temperature, negatives, tile_size(jax.default_backend()))


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
    loss, softmaxes = _log_sums(rows, temperature, negatives, tile)
    return loss, _gradients(rows, temperature, softmaxes, negatives, tile, wanted)


@_once.defjvp
def _(negatives, tile, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(2, 3))
def _log_sums(
    rows: Rows, temperature: jax.Array, negatives: str, tile: int
) -> tuple[jax.Array, dict[str, _Softmax]]:
    """The loss, and the softmaxes by the name of the anchors' view, in tiles."""
    tiles = {name: split_tiles(side, tile) for name, side in rows.items()}
    positive = (tiles["x"] * tiles["y"]).sum(axis=2) / temperature
    start = _LogSum.none_yet(positive + _zero(rows))
    sums = {name: start for name, _ in info_nce_anchors(negatives, "bank" in rows)}
    for block, both in info_nce_blocks(negatives, "bank" in rows):
        score, places = _scores(block, rows, tiles, temperature)
        step = partial(_add_scores, block, both, score)
        sums, _ = jax.lax.scan(step, sums, places)
    softmaxes = {name: total.with_positive(positive) for name, total in sums.items()}
    margins = jnp.stack([s.margin.ravel()[: len(rows["x"])] for s in softmaxes.values()])
    return JAX.softplus(margins).mean(), softmaxes


class _Softmax(NamedTuple):
    """What makes up every anchor's softmax over its positive and all of its negatives."""

    peak: jax.Array  # the largest score of a negative
    log: jax.Array  # log-sum-exp of all scores, less the peak
    margin: jax.Array  # log-sum-exp of the negatives, less the score of the positive

    def log_share(self, place: jax.Array, scores: jax.Array, axis: int) -> jax.Array:
        """Logarithms of the softmax of one tile of anchors, with their negatives along `axis`."""
        peak, log = (jnp.expand_dims(part[place], axis) for part in (self.peak, self.log))
        return scores - peak - log


class _LogSum(NamedTuple):
    """The running log-sum-exp of the scores of every anchor's negatives.

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    peak: jax.Array
    total: jax.Array  # of e^(score - peak)

    @classmethod
    def none_yet(cls, like: jax.Array) -> _LogSum:
        """The sum before a score is added, shaped `like` this; its peak is finite."""
        return cls(0.0 * like + 0.5 * jnp.finfo(like.dtype).min, 0.0 * like)

    def add(self, place: jax.Array, scores: jax.Array, axis: int) -> _LogSum:
        """Add the scores of one tile of anchors with their negatives along `axis`."""
        before = self.peak[place]
        peak = jnp.maximum(before, scores.max(axis=axis))
        part = jnp.exp(scores - jnp.expand_dims(peak, axis)).sum(axis=axis)
        total = self.total[place] * jnp.exp(before - peak) + part
        return _LogSum(self.peak.at[place].set(peak), self.total.at[place].set(total))

    def with_positive(self, positive: jax.Array) -> _Softmax:
        """The softmaxes, given the scores of the positives."""
        log = jnp.log(jnp.where(self.total == 0, 1.0, self.total))  # 0: a row that fills a tile
        margin = self.peak - positive + log
        return _Softmax(self.peak, log + JAX.softplus(-margin), margin)


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
    softmaxes: dict[str, _Softmax],
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
        step = partial(_add_gradients, block, both, score, tiles, softmaxes)
        sums, _ = jax.lax.scan(step, sums, places)
    # Of every anchor's positive: its probability less 1, in a form that keeps the digits.
    pulls = jnp.stack([-JAX.sigmoid(softmax.margin) for softmax in softmaxes.values()])
    n = len(rows["x"])
    pull = pulls.sum(axis=0).ravel()[:n, None]
    own = {"x": pull * rows["y"], "y": pull * rows["x"]}
    scale = 1.0 / (temperature * len(softmaxes) * n)
    sides = {name: sums[name].finish(1.0, 0.0, 1.0, rows[name]) for name in wanted}
    return {k: scale * (v + own.get(k, 0.0)) for k, v in sides.items() if v is not None}


def _add_gradients(
    block: Block,
    both: bool,
    score: Callable[..., jax.Array],
    tiles: Rows,
    softmaxes: dict[str, _Softmax],
    sums: Any,
    place: Any,
) -> tuple[Any, None]:
    i, j, _ = place
    scores = score(*place)
    weight = jnp.exp(softmaxes[block.left].log_share(i, scores, axis=1))
    if both:
        weight = weight + jnp.exp(softmaxes[block.right].log_share(j, scores, axis=0))
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
    first, *others = (side[0, 0] for side in rows.values())
    return 0.0 * sum(others, first)
