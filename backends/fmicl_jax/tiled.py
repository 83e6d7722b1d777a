"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten. The tiles are
a `lax.scan`, so that compile time does not grow with the batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from fmicl_core import Pairwise
from fmicl_core.checks import once_differentiable
from fmicl_core.forms import tile_size
from fmicl_jax.ops import JAX, product, square_lengths
from fmicl_jax.plan import Fused, Gradients, Plan


def tiled_block_mean(
    left: jax.Array,
    right: jax.Array | None,
    pairwise: Pairwise,
    skips_diagonal: bool,
    fused: Fused | None = None,
) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left."""
    tile = tile_size(jax.default_backend())
    return _block_mean(left, right, Plan(pairwise, skips_diagonal, tile, fused))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _block_mean(left: jax.Array, right: jax.Array | None, plan: Plan) -> jax.Array:
    """Mean excess over the pairs (left_i, right_j); right None means left."""
    mean, _ = _mean_and_gradients(left, right, plan, (False, False))
    return mean


def _block_mean_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The derivative is <gradient, tangent>: forward mode as it stands, reverse mode by transposing.
    left, right = primals
    wanted = tuple(t is not None and not isinstance(t, SymbolicZero) for t in tangents)
    mean, gradients = _once(left, right, plan, wanted)
    slope = jnp.zeros((), left.dtype)
    for gradient, tangent in zip(gradients, tangents, strict=True):
        if gradient is not None:
            slope = slope + (gradient * tangent).sum()
    return mean, slope


_block_mean.defjvp(_block_mean_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _once(left: jax.Array, right: jax.Array | None, plan: Plan, wanted: Any) -> Any:
    return _mean_and_gradients(left, right, plan, wanted)


@_once.defjvp
def _(plan, wanted, primals, tangents):  # type: ignore[no-untyped-def]
    raise once_differentiable()


@partial(jax.jit, static_argnums=(2, 3))
def _mean_and_gradients(
    left: jax.Array, right: jax.Array | None, plan: Plan, wanted: tuple[bool, bool]
) -> tuple[jax.Array, Gradients]:
    """The mean excess, and its gradients in left and in right where they are wanted."""
    how = left, right, plan, wanted
    if plan.fused is None:
        return sweep(*how)
    from fmicl_jax.fused_pallas import fused_mean_and_gradients  # imports Pallas

    if plan.fused.interpret:
        return fused_mean_and_gradients(*how)
    # While tracing the device was a guess: what is compiled for another is the plain tiles.
    mean, gradients = jax.lax.platform_dependent(
        cuda=lambda: fused_mean_and_gradients(*how), default=lambda: sweep(*how)
    )
    return mean, gradients


def sweep(
    left: jax.Array, right: jax.Array | None, plan: Plan, wanted: tuple[bool, bool]
) -> tuple[jax.Array, Gradients]:
    """The mean excess, and its gradients in left and in right where they are wanted.

    A symmetric block (right None) visits each pair once, i < j, and has one gradient, in left.
    """
    pairwise, skips_diagonal, tile, _ = plan
    a, b, c = pairwise.coefficients()
    symmetric = right is None
    others = left if right is None else right
    n, k = len(left), len(others)
    rows, columns = split_tiles(left, tile), split_tiles(others, tile)
    want_left, want_right = (wanted[0], wanted[0]) if symmetric else wanted
    # Made of the features, so that inside jax.shard_map the carry of the scan varies over the same
    # mesh axes, as it must; features that are not finite have no gradient anyway.
    zero = 0.0 * (left[0, 0] + others[0, 0])
    grad_rows = GradientSums.zeros(rows, want_left, bool(b), zero)
    grad_columns = None if symmetric else GradientSums.zeros(columns, want_right, bool(b), zero)

    def at_edge(z: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Total and slopes without the diagonal and what was appended to fill the tile."""
        keep = counted_pairs(i, j, z.shape, n, k, symmetric, skips_diagonal)
        excess, slope = pairwise.excess_and_slope(z, JAX)
        return JAX.sum(jnp.where(keep, excess, 0.0)), jnp.where(keep, slope, 0.0)

    def inside(z: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pairwise.excess_total_and_slope(z, JAX)

    def step(carry: Any, place: Any) -> tuple[Any, jax.Array]:
        grad_rows, grad_columns = carry
        i, j, edge = place
        x, y = rows[i], columns[j]
        z = product(a * x, y.T) + c
        if b:
            z = z + b * (square_lengths(x)[:, None] + square_lengths(y)[None, :])
        total, weight = jax.lax.cond(edge, at_edge, inside, z, i, j)
        grad_rows = grad_rows.add(i, weight, y)
        if symmetric:
            grad_rows = grad_rows.add(j, weight.T, x)
        else:
            grad_columns = grad_columns.add(j, weight.T, x)
        return (grad_rows, grad_columns), total

    places = tile_places(rows.shape, columns.shape, n, k, symmetric, skips_diagonal)
    (grad_rows, grad_columns), totals = jax.lax.scan(step, (grad_rows, grad_columns), places)
    pairs = n * (k - 1 if skips_diagonal else k)
    scale = (2.0 if symmetric else 1.0) / pairs
    grad_left = grad_rows.finish(a, b, scale, left)
    grad_right = None if grad_columns is None else grad_columns.finish(a, b, scale, others)
    return totals.sum() * scale, (grad_left, grad_right)


class GradientSums(NamedTuple):
    """Sums over the tiles of one side: W y, and the row sums of W if z has squared lengths."""

    products: jax.Array | None
    masses: jax.Array | None

    @classmethod
    def zeros(
        cls, tiles: jax.Array, wanted: bool, has_lengths: bool, zero: jax.Array
    ) -> GradientSums:
        """The sums before a tile is added; `zero` is 0 of the kind that a scan carries."""
        products = jnp.zeros_like(tiles) + zero if wanted else None
        masses = jnp.zeros_like(tiles[..., 0]) + zero if wanted and has_lengths else None
        return cls(products, masses)

    def add(self, place: jax.Array, weight: jax.Array, others: jax.Array) -> GradientSums:
        """Add the weights of one tile times the features on its other side."""
        products, masses = self
        if products is not None:
            products = products.at[place].add(product(weight, others))
        if masses is not None:
            masses = masses.at[place].add(weight.sum(axis=1))
        return GradientSums(products, masses)

    def finish(self, a: float, b: float, scale: float, rows: jax.Array) -> jax.Array | None:
        """d/drows of scale times the sum of penalties: a W y + 2 b (sum of W) rows."""
        if self.products is None:
            return None
        gradient = a * self.products.reshape(-1, rows.shape[1])[: len(rows)]
        if self.masses is not None:
            gradient += 2.0 * b * self.masses.reshape(-1)[: len(rows), None] * rows
        return scale * gradient


def split_tiles(x: jax.Array, tile: int) -> jax.Array:
    """(N, D) as (tiles, rows, D) of equally many rows, at most `tile`; zeros fill the last one."""
    count = -(-len(x) // tile)
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, x.shape[1])


def counted_pairs(
    i: jax.Array, j: jax.Array, shape: tuple[int, ...], n: int, k: int, symmetric: bool, skips: bool
) -> jax.Array:
    """Which pairs of the tile count: not the diagonal, nor what was appended to fill the tile."""
    row = i * shape[0] + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    column = j * shape[1] + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    keep = (row < n) & (column < k)
    if skips:
        keep &= (row < column) if symmetric else (row != column)
    return keep


def tile_places(
    rows: tuple[int, ...], columns: tuple[int, ...], n: int, k: int, symmetric: bool, skips: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every tile its row, its column, and whether some of its pairs do not count."""
    i, j = np.indices((rows[0], columns[0]), dtype=np.int32).reshape(2, -1)
    if symmetric:
        i, j = i[i <= j], j[i <= j]
    bottom, last = (i + 1) * rows[1], (j + 1) * columns[1]
    edge = (bottom > n) | (last > k)
    if skips:
        edge |= (i * rows[1] < last) & (j * columns[1] < bottom)  # ranges of rows and columns meet
    return i, j, edge
