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
from jax.custom_derivatives import SymbolicZero

from fmicl_core.checks import once_differentiable
from fmicl_core.forms import tile_size
from fmicl_core.pairs import Pairs
from fmicl_core.related import SoftmaxBlock, info_nce_anchors, info_nce_blocks
from fmicl_jax.ids import in_order
from fmicl_jax.ops import JAX, product
from fmicl_jax.plan import Rows
from fmicl_jax.softmaxes import LogSum, Softmax
from fmicl_jax.tiles import (
    GradientSums,
    counted_pairs,
    over_meeting_tiles,
    split_tiles,
    tile_numbers,
    tile_places,
    zero_of,
)


def tiled_info_nce(
    rows: Rows,
    pairs: Pairs,
    numbers: dict[str, jax.Array] | None,
    weights: jax.Array | None,
) -> jax.Array:
    """The mean of `fmicl_jax.dense_related.dense_info_nce` in two passes, once differentiable.

    Without ids it equals

        positive = (x * y).sum(axis=1)
        every = concatenate([positive[:, None], negative_scores], axis=1)
        (logsumexp(every, axis=1) - positive).mean()

    averaged over the anchor views, with negative_scores (N, all negatives of the anchor), or where
    decoupled without the positive in `every`.

    Args:
        rows, pairs, numbers, weights: as for `dense_info_nce`.
    """
    present = None if weights is None else weights != 0
    if numbers is not None and present is not None:
        # Equal ids become neighbours, so that they lie in few tiles.
        orders = {name: in_order(side)[0] for name, side in numbers.items()}
        rows = {name: v[orders[name]] if name in orders else v for name, v in rows.items()}
        numbers = {name: side[orders[name]] for name, side in numbers.items()}
        present = present[orders["x"]]
    tile = tile_size(jax.default_backend())
    return _info_nce(rows, numbers, present, _Plan(pairs, tile))


class _Plan(NamedTuple):
    """All that the two passes are compiled for."""

    pairs: Pairs
    tile: int


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _info_nce(
    rows: Rows,
    numbers: dict[str, jax.Array] | None,
    present: jax.Array | None,
    plan: _Plan,
) -> jax.Array:
    loss, _ = _log_sums(rows, numbers, present, plan)
    return loss


def _info_nce_jvp(plan: _Plan, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The derivative is <gradient, tangent>: forward mode as it stands, reverse mode by transposing.
    moves = tangents[0]
    wanted = tuple(name for name, move in moves.items() if not isinstance(move, SymbolicZero))
    loss, gradients = _once(*primals, plan, wanted)
    slope = jnp.zeros((), loss.dtype)
    for name in wanted:
        slope = slope + (gradients[name] * moves[name]).sum()
    return loss, slope


_info_nce.defjvp(_info_nce_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _once(
    rows: Rows, numbers: Any, present: Any, plan: _Plan, wanted: tuple[str, ...]
) -> tuple[jax.Array, Rows]:
    loss, softmaxes = _log_sums(rows, numbers, present, plan)
    return loss, _gradients(rows, numbers, softmaxes, plan, wanted)


@_once.defjvp
def _(plan, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(3,))
def _log_sums(
    rows: Rows,
    numbers: dict[str, jax.Array] | None,
    present: jax.Array | None,
    plan: _Plan,
) -> tuple[jax.Array, dict[str, Softmax]]:
    """The loss, and the softmaxes by the name of the anchors' view, in tiles."""
    pairs, tile = plan
    tiles = {name: split_tiles(side, tile) for name, side in rows.items()}
    start = LogSum.none_yet(jnp.zeros_like(tiles["x"][..., 0]) + zero_of(*rows.values()))
    sums = {name: start for name, _ in info_nce_anchors(pairs)}
    for softmax in info_nce_blocks(pairs, numbers is not None):
        sweep = _Sweep(softmax, rows, tiles, numbers, tile)
        sums = sweep(partial(_add_scores, softmax), sums)
    if pairs.single and present is not None:
        held = split_tiles(present, tile)
        softmaxes = {name: total.where_positive(held) for name, total in sums.items()}
    else:
        positive = (tiles["x"] * tiles["y"]).sum(axis=2)
        softmaxes = {
            name: total.beside_positive(positive)
            if pairs.decoupled
            else total.with_positive(positive)
            for name, total in sums.items()
        }
    margins = jnp.stack([s.margin.ravel()[: len(rows["x"])] for s in softmaxes.values()])
    final = pairs.single or pairs.decoupled
    return (margins if final else JAX.softplus(margins)).mean(), softmaxes


def _add_scores(
    softmax: SoftmaxBlock, sums: Any, i: jax.Array, j: jax.Array, scores: jax.Array
) -> Any:
    block = softmax.block
    sums = {**sums, block.left: sums[block.left].add(i, scores, axis=1)}
    if softmax.both:
        sums = {**sums, block.right: sums[block.right].add(j, scores, axis=0)}
    return sums


@partial(jax.jit, static_argnums=(3, 4))
def _gradients(
    rows: Rows,
    numbers: dict[str, jax.Array] | None,
    softmaxes: dict[str, Softmax],
    plan: _Plan,
    wanted: tuple[str, ...],
) -> Rows:
    """The gradients that are wanted, by name."""
    pairs, tile = plan
    tiles = {name: split_tiles(side, tile) for name, side in rows.items()}
    zero = zero_of(*rows.values())
    sums = {k: GradientSums.zeros(v, k in wanted, False, zero) for k, v in tiles.items()}
    for softmax in info_nce_blocks(pairs, numbers is not None):
        sweep = _Sweep(softmax, rows, tiles, numbers, tile)
        sums = sweep(partial(_add_gradients, softmax, tiles, softmaxes), sums)
    n, own = len(rows["x"]), {}
    if not pairs.single:
        # Of every pair (x_i, y_i): its probability less 1, in a form that keeps the digits.
        margins = jnp.stack([softmax.margin for softmax in softmaxes.values()])
        pulls = -jnp.ones_like(margins) if pairs.decoupled else -JAX.sigmoid(margins)
        pull = pulls.sum(axis=0).ravel()[:n, None]
        own = {"x": pull * rows["y"], "y": pull * rows["x"]}
    scale = 1.0 / (len(softmaxes) * n)
    sides = {name: sums[name].finish(1.0, 0.0, 1.0, rows[name]) for name in wanted}
    return {k: scale * (v + own.get(k, 0.0)) for k, v in sides.items() if v is not None}


def _add_gradients(
    softmax: SoftmaxBlock,
    tiles: Rows,
    softmaxes: dict[str, Softmax],
    sums: Any,
    i: jax.Array,
    j: jax.Array,
    scores: jax.Array,
) -> Any:
    block = softmax.block
    weight = jnp.exp(softmaxes[block.left].log_share(i, scores, axis=1))
    if softmax.both:
        weight = weight + jnp.exp(softmaxes[block.right].log_share(j, scores, axis=0))
    sums = {**sums, block.left: sums[block.left].add(i, weight, tiles[block.right][j])}
    return {**sums, block.right: sums[block.right].add(j, weight.T, tiles[block.left][i])}


class _Sweep:
    """The sweep over the tiles of a block: step(carry, i, j, scores) for every tile.

    A symmetric block has each pair once, i < j. Pairs that do not count score -inf.
    """

    def __init__(
        self,
        softmax: SoftmaxBlock,
        rows: Rows,
        tiles: Rows,
        numbers: dict[str, jax.Array] | None,
        tile: int,
    ) -> None:
        self.block, _, self.which = softmax
        self.left, self.right = tiles[self.block.left], tiles[self.block.right]
        self.sizes = len(rows[self.block.left]), len(rows[self.block.right])
        self.marks = None
        if self.which != "every" and numbers is not None and self.block.right in numbers:
            self.marks = tile_numbers((numbers[self.block.left], numbers[self.block.right]), tile)

    def __call__(self, step: Callable[..., Any], start: Any) -> Any:
        block, marks = self.block, self.marks
        if self.which == "equal" and marks is not None:

            def visit(carry: Any, i: jax.Array, j: jax.Array) -> Any:
                return step(carry, i, j, self.at_edge(self.scores(i, j), i, j))

            return over_meeting_tiles(marks, block.symmetric, visit, start)

        def visit_place(carry: Any, place: Any) -> tuple[Any, None]:
            i, j, edge = place
            if marks is not None:
                edge |= marks[0].meets(i, marks[1], j)
            scores = self.scores(i, j)
            scores = jax.lax.cond(edge, self.at_edge, lambda s, i, j: s, scores, i, j)
            return step(carry, i, j, scores), None

        shapes = self.left.shape[:2], self.right.shape[:2]
        places = tile_places(*shapes, *self.sizes, block.symmetric, block.skips_diagonal)
        return jax.lax.scan(visit_place, start, places)[0]

    def scores(self, i: jax.Array, j: jax.Array) -> jax.Array:
        """Scores of all pairs of a tile."""
        return product(self.left[i], self.right[j].T)

    def at_edge(self, s: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """The scores of a tile some of whose pairs do not count."""
        block = self.block
        how = *self.sizes, block.symmetric, block.skips_diagonal
        keep = counted_pairs(i, j, s.shape, *how)
        if self.marks is not None:
            equal = self.marks[0].equal(i, self.marks[1], j)
            keep &= equal if self.which == "equal" else ~equal
        return jnp.where(keep, s, -jnp.inf)
