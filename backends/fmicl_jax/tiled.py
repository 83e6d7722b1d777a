"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten. The tiles are
a `lax.scan`, so that compile time does not grow with the batch.

With ids the rows are first brought into an order in which equal ids are neighbours: the tiles that
hold pairs with equal ids are then few. All others take the path of a batch without ids.

Over devices the rows pass round a ring, and with them goes their gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fmicl_core import Pairwise
from fmicl_core.checks import once_differentiable
from fmicl_core.forms import positive_tile_size, tile_size
from fmicl_jax.ids import in_order
from fmicl_jax.plan import Fused, Gradients, Numbers, Plan, Wanted
from fmicl_jax.ring import go_round
from fmicl_jax.sweep import sweep_ordered
from fmicl_jax.tiles import zero_of


def tiled_block_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers | None = None,
    *,
    bias: jax.Array | None = None,
    fused: Fused | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j), as `fmicl_jax.dense.dense_block_mean`.

    Args:
        left, right, pairwise, skips_diagonal, numbers, bias: as there.
        fused: how the fused routine is made, or None for plain tiles.
        axis_name: axis of the devices that share the rows, a bank excepted, or None. What is
            returned is this device's part: its mean over the devices is that of the union, with
            derivatives that are exact then.
    """
    plan = Plan(pairwise, skips_diagonal, tile_size(jax.default_backend()), fused)
    axis_name = axis_name if skips_diagonal else None  # every device has the whole bank
    return _block_mean(left, right, bias, numbers, None, plan, axis_name)


def tiled_positive_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    numbers: Numbers,
    weights: jax.Array,
    *,
    bias: jax.Array | None = None,
    fused: Fused | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean weighted score of the positives, as `fmicl_jax.dense.dense_positive_mean`.

    Args:
        left, right, pairwise, skips_diagonal, numbers, weights, bias: as there.
        fused, axis_name: as for `tiled_block_mean`.
    """
    plan = Plan(pairwise, skips_diagonal, positive_tile_size(jax.default_backend()), fused)
    return _block_mean(left, right, bias, numbers, weights, plan, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _block_mean(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    axis_name: str | None,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j) or, with weights, mean score of the positives.

    right None means left.
    """
    nothing = False, False, False
    mean, _ = _mean_and_gradients(left, right, bias, numbers, weights, plan, axis_name, nothing)
    return mean


def _block_mean_jvp(
    plan: Plan, axis_name: str | None, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    # The derivative is <gradient, tangent>: forward mode as it stands, reverse mode by transposing.
    # Weights are made of ids and have none.
    tangents = tangents[:3]
    wanted = tuple(t is not None and not isinstance(t, SymbolicZero) for t in tangents)
    mean, gradients = _once(*primals, plan, axis_name, wanted)
    slope = jnp.zeros((), mean.dtype)
    for gradient, tangent in zip(gradients, tangents, strict=True):
        if gradient is not None:
            slope = slope + (gradient * tangent).sum()
    return mean, slope


_block_mean.defjvp(_block_mean_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(5, 6, 7))
def _once(
    left: Any, right: Any, bias: Any, numbers: Any, weights: Any,
    plan: Plan, axis_name: str | None, wanted: Wanted,
) -> Any:  # fmt: skip
    return _mean_and_gradients(left, right, bias, numbers, weights, plan, axis_name, wanted)


@_once.defjvp
def _(plan, axis_name, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(5, 6, 7))
def _mean_and_gradients(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    axis_name: str | None,
    wanted: Wanted,
) -> tuple[jax.Array, Gradients]:
    """The mean, and its gradients where they are wanted."""
    swept = sweep_ordered if axis_name is None else partial(_ring, axis_name=axis_name)
    if numbers is None:
        return swept(left, right, bias, None, None, plan, wanted)
    order, back = in_order(numbers[0])
    left, own = left[order], numbers[0][order]
    weights = None if weights is None else weights[order]
    theirs, back_right = None, back
    if right is not None and numbers[1] is not None:
        order, back_right = in_order(numbers[1])
        right, theirs = right[order], numbers[1][order]
    mean, gradients = swept(left, right, bias, (own, theirs), weights, plan, wanted)
    in_left, in_right, in_bias = gradients
    in_left = None if in_left is None else in_left[back]
    in_right = None if in_right is None else in_right[back_right]
    return mean, (in_left, in_right, in_bias)


def _ring(
    left: jax.Array,
    right: jax.Array | None,
    bias: jax.Array | None,
    numbers: Numbers | None,
    weights: jax.Array | None,
    plan: Plan,
    wanted: Wanted,
    *,
    axis_name: str,
) -> tuple[jax.Array, Gradients]:
    """This device's part of the mean over the union, and the gradients of the devices' mean.

    The rows on the right go round, and with them their gradient, which is complete at home.
    """
    n, symmetric = len(left), right is None
    others = left if right is None else right
    # Means over all pairs of the union; of positives, over the anchors.
    pairs = int(jax.lax.axis_size(axis_name)) * n - 1
    here, elsewhere = (1.0, 1.0) if weights is not None else ((n - 1) / pairs, n / pairs)
    zero = zero_of(left, others, bias)
    sides = zip((left, right, bias), wanted, strict=True)
    none = tuple(None if s is None or not want else zero + jnp.zeros_like(s) for s, want in sides)
    mean, (in_left, in_right, in_bias) = zero, none
    if here > 0.0:  # else a device has no pair of its own
        found = sweep_ordered(left, right, bias, numbers, weights, plan, wanted)
        mean, (in_left, in_right, in_bias) = _scaled(here, found)
    guests = others, None if numbers is None else numbers[0 if numbers[1] is None else 1]
    far, wanted_far = plan._replace(skips_diagonal=False), wanted
    if symmetric:
        in_right, wanted_far = none[0], (wanted[0], wanted[0], wanted[2])

    def visit(own: Any, guests: Any, made: Any, once: jax.Array | bool) -> tuple[Any, Any]:
        rows, theirs = guests
        both = None if numbers is None else (numbers[0], theirs)
        found = sweep_ordered(left, rows, bias, both, weights, far, wanted_far)
        share = elsewhere * jnp.where(once, 2.0, 1.0) if symmetric else elsewhere
        mean, (in_left, in_right, in_bias) = _scaled(share, found)
        new = (mean, in_left, in_bias), in_right
        return jax.tree.map(jnp.add, (own, made), new)

    own = mean, in_left, in_bias
    own, made = go_round(visit, own, guests, in_right, axis_name=axis_name, symmetric=symmetric)
    mean, in_left, in_bias = own
    if symmetric:
        in_left, made = None if in_left is None else in_left + made, None
    return mean, (in_left, made, in_bias)


def _scaled(share: Any, tree: Any) -> Any:
    return jax.tree.map(lambda array: (share * array).astype(array.dtype), tree)
