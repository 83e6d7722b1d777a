"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull. Over
devices either pass is a ring: rows go round, and with them their log-sum-exps or their gradients.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fmicl_core.checks import once_differentiable
from fmicl_core.forms import tile_size
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_jax.ids import in_order
from fmicl_jax.ops import JAX
from fmicl_jax.plan import Rows
from fmicl_jax.softmax_sweep import Once, Pass, Side, add_block, sides_of
from fmicl_jax.softmaxes import LogSum, Softmax
from fmicl_jax.tiles import GradientSums, split_tiles, zero_of


def tiled_info_nce(
    rows: Rows,
    pairs: Pairs,
    numbers: dict[str, jax.Array] | None,
    weights: jax.Array | None,
    axis_name: str | None = None,
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
        axis_name: axis of the devices that share the rows, a bank excepted, or None. What is
            returned is this device's part: its mean over the devices is that of the union, with
            derivatives that are exact then.
    """
    present = None if weights is None else weights != 0
    if numbers is not None and present is not None:
        # Equal ids become neighbours, so that they lie in few tiles.
        orders = {name: in_order(side)[0] for name, side in numbers.items()}
        rows = {name: v[orders[name]] if name in orders else v for name, v in rows.items()}
        numbers = {name: side[orders[name]] for name, side in numbers.items()}
        present = present[orders["x"]]
    tile = tile_size(jax.default_backend())
    return _info_nce(rows, numbers, present, _Plan(pairs, tile, axis_name))


class _Plan(NamedTuple):
    """All that the two passes are compiled for."""

    pairs: Pairs
    tile: int
    axis_name: str | None


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
    pairs, tile, axis_name = plan
    sides, sizes = sides_of(rows, numbers, tile, {}), {k: len(v) for k, v in rows.items()}
    x = sides["x"].tiles
    start = LogSum.none_yet(jnp.zeros_like(x[..., 0]) + zero_of(*rows.values()))
    sums: dict[str, Any] = {name: start for name, _ in info_nce_anchors(pairs)}
    how = Pass(_adds_scores, lambda name: start, LogSum.merged, each=False)
    for softmax in info_nce_blocks(pairs, numbers is not None):
        sums = add_block(softmax, sides, sizes, sums, how, axis_name)
    if pairs.single and present is not None:
        held = split_tiles(present, tile)
        softmaxes = {name: total.where_positive(held) for name, total in sums.items()}
    else:
        positive = (x * sides["y"].tiles).sum(axis=2)
        softmaxes = {
            name: total.beside_positive(positive)
            if pairs.decoupled
            else total.with_positive(positive)
            for name, total in sums.items()
        }
    margins = jnp.stack([s.margin.ravel()[: len(rows["x"])] for s in softmaxes.values()])
    final = pairs.single or pairs.decoupled
    return (margins if final else JAX.softplus(margins)).mean(), softmaxes


def _adds_scores(left: Side, right: Side, both: bool, once: Once) -> Any:
    def step(carry: Any, i: jax.Array, j: jax.Array, scores: jax.Array) -> Any:
        on_left, on_right = carry
        on_left = on_left.add(i, scores, axis=1)
        if both and on_right is None:
            on_left = on_left.add(j, scores, axis=0)
        elif both and once is not False:
            on_right = on_right.add(j, _where(once, scores, -jnp.inf), axis=0)
        return on_left, on_right

    return step


@partial(jax.jit, static_argnums=(3, 4))
def _gradients(
    rows: Rows,
    numbers: dict[str, jax.Array] | None,
    softmaxes: dict[str, Softmax],
    plan: _Plan,
    wanted: tuple[str, ...],
) -> Rows:
    """The gradients that are wanted, by name."""
    pairs, tile, axis_name = plan
    sides, sizes = sides_of(rows, numbers, tile, softmaxes), {k: len(v) for k, v in rows.items()}
    zero = zero_of(*rows.values())

    def nothing(name: str) -> GradientSums:
        return GradientSums.zeros(sides[name].tiles, name in wanted, False, zero)

    sums: dict[str, Any] = {name: nothing(name) for name in rows}
    how = Pass(_adds_gradients, nothing, partial(jax.tree.map, jnp.add), each=True)
    for softmax in info_nce_blocks(pairs, numbers is not None):
        sums = add_block(softmax, sides, sizes, sums, how, axis_name)
    n, own = len(rows["x"]), {}
    if not pairs.single:
        # Of every pair (x_i, y_i): its probability less 1, in a form that keeps the digits.
        margins = jnp.stack([softmax.margin for softmax in softmaxes.values()])
        pulls = -jnp.ones_like(margins) if pairs.decoupled else -JAX.sigmoid(margins)
        pull = pulls.sum(axis=0).ravel()[:n, None]
        own = {"x": pull * rows["y"], "y": pull * rows["x"]}
    scale = 1.0 / (len(softmaxes) * n)
    in_rows = {name: sums[name].finish(1.0, 0.0, 1.0, rows[name]) for name in wanted}
    return {k: scale * (v + own.get(k, 0.0)) for k, v in in_rows.items() if v is not None}


def _adds_gradients(left: Side, right: Side, both: bool, once: Once) -> Any:
    def step(carry: Any, i: jax.Array, j: jax.Array, scores: jax.Array) -> Any:
        on_left, on_right = carry
        weight = _softmax_of(left, i, scores, axis=1)
        if both:
            weight = weight + _softmax_of(right, j, scores, axis=0)
        on_left = on_left.add(i, weight, right.tiles[j])
        if on_right is None:
            on_left = on_left.add(j, weight.T, left.tiles[i])
        elif once is not False:
            on_right = on_right.add(j, _where(once, weight, 0.0).T, left.tiles[i])
        return on_left, on_right

    return step


def _where(once: Once, values: jax.Array, else_value: float) -> jax.Array:
    """The values, or another one where the guests' own device adds theirs to them."""
    return values if once is True else jnp.where(once, values, else_value)


def _softmax_of(anchors: Side, place: jax.Array, scores: jax.Array, axis: int) -> jax.Array:
    """Softmax of a tile of anchors, with their others along `axis`."""
    assert anchors.softmax is not None
    return jnp.exp(anchors.softmax.log_share(place, scores, axis))
