"""What sweeps over tiles share: the tiles of an array, the places of tiles, sums of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmicl_jax.ops import product


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


def zero_of(*arrays: jax.Array | None) -> jax.Array:
    """0 of the kind that a scan over these arrays, if they are given, carries.

    Inside jax.shard_map what a scan carries must vary over the mesh axes that the arrays do. Where
    they are not finite there is no loss anyway.
    """
    first, *others = (0.0 * array.ravel()[0] for array in arrays if array is not None)
    return sum(others, first)


def split_tiles(x: jax.Array, tile: int) -> jax.Array:
    """(N, ...) as (tiles, rows, ...) of equally many rows, at most `tile`, filled with zeros."""
    count, size = _count_and_size(len(x), tile)
    missing = [(0, count * size - len(x)), *((0, 0) for _ in x.shape[1:])]
    return jnp.pad(x, missing).reshape(count, size, *x.shape[1:])


def _count_and_size(n: int, tile: int) -> tuple[int, int]:
    count = -(-n // tile)
    return count, -(-n // count)


class TileNumbers(NamedTuple):
    """Numbers of the rows in tiles, and the range of each tile's numbers.

    Args:
        rows: (tiles, rows) numbers; the last one stands for rows that fill a tile.
        low: (tiles,) smallest number in a tile.
        high: (tiles,) largest number in a tile.
    """

    rows: jax.Array
    low: jax.Array
    high: jax.Array

    @classmethod
    def of(cls, numbers: jax.Array, tile: int) -> TileNumbers:
        """The numbers (N,) in the tiles of `split_tiles`."""
        count, size = _count_and_size(len(numbers), tile)
        filled = jnp.pad(numbers, (0, count * size - len(numbers)), mode="edge")
        rows = filled.reshape(count, size)
        return cls(rows, rows.min(axis=1), rows.max(axis=1))

    def meets(self, i: jax.Array | slice, other: TileNumbers, j: jax.Array | slice) -> jax.Array:
        """Whether tile i and tile j of the other side may have a number in common."""
        return (self.low[i] <= other.high[j]) & (other.low[j] <= self.high[i])

    def equal(self, i: jax.Array, other: TileNumbers, j: jax.Array) -> jax.Array:
        """Which pairs of the tile have equal numbers."""
        return self.rows[i][:, None] == other.rows[j][None, :]


def tile_numbers(
    numbers: tuple[jax.Array, jax.Array | None], tile: int
) -> tuple[TileNumbers, TileNumbers]:
    """Numbers of both sides of a block in tiles; None on the right means those on the left."""
    left, right = numbers
    own = TileNumbers.of(left, tile)
    return own, own if right is None else TileNumbers.of(right, tile)


def over_meeting_tiles(
    numbers: tuple[TileNumbers, TileNumbers],
    symmetric: bool,
    step: Callable[[Any, Any, Any], Any],
    start: Any,
) -> Any:
    """What step(carry, i, j) makes of `start` over all tiles whose ranges of numbers overlap.

    Of a row of tiles all from the first of these to the last are visited: in the order of the
    numbers there are none between that could be left out.

    Args:
        numbers: numbers of both sides, in tiles.
        symmetric: whether only tiles with i <= j are visited.
        step: function of the carry, i and j that gives the next carry.
        start: first carry.
    """
    left, right = numbers
    places = jnp.arange(len(right.low))

    def along_row(carry: Any, i: jax.Array) -> tuple[Any, None]:
        meets = left.meets(i, right, slice(None))
        if symmetric:
            meets &= places >= i
        end = jnp.where(meets, places + 1, 0).max()
        return jax.lax.fori_loop(jnp.argmax(meets), end, lambda j, c: step(c, i, j), carry), None

    return jax.lax.scan(along_row, start, jnp.arange(len(left.low)))[0]


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
