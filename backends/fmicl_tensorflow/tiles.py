"""A block of pairs cut into tiles, and what is added up over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_tensorflow.dense import Sides


class NumberTiles(NamedTuple):
    """Numbers of rows in tiles, (tiles, rows), with the least and the largest of each tile."""

    numbers: tf.Tensor
    least: tf.Tensor
    largest: tf.Tensor

    @classmethod
    def split(cls, numbers: tf.Tensor, tiles: tf.Tensor) -> NumberTiles:
        """The numbers of rows that were split into `tiles`; the last one fills its tile."""
        count, size = tf.shape(tiles)[0], tf.shape(tiles)[1]
        place = tf.minimum(tf.range(count * size), tf.size(numbers) - 1)
        split = tf.reshape(tf.gather(numbers, place), [count, size])
        return cls(split, tf.reduce_min(split, axis=1), tf.reduce_max(split, axis=1))


class TileGrid(NamedTuple):
    """The tiles of a block of n x k pairs, and which of its pairs count.

    Args:
        left: rows on the left, (tiles, rows, D).
        right: likewise on the right.
        n: number of rows on the left.
        k: number of rows on the right.
        symmetric: whether (i, j) and (j, i) are the same pair, of which those with i < j count.
        skips_diagonal: whether pairs with i = j are left out.
        which: pairs that count, by the numbers of their rows: "every", "different" or "equal".
        numbers: numbers of the rows on both sides, or nothing for "every".
        quarters: tiles that are visited, a whole number: 0, all; 1, those of rows and columns in
            like halves; 2, in unlike halves. None: all.
    """

    left: tf.Tensor
    right: tf.Tensor
    n: tf.Tensor
    k: tf.Tensor
    symmetric: bool
    skips_diagonal: bool
    which: str = "every"
    numbers: tuple[NumberTiles, ...] = ()
    quarters: tf.Tensor | None = None

    def with_numbers(self, which: str, numbers: Sides) -> TileGrid:
        """The same tiles, of which the pairs with such numbers count."""
        sides = zip(numbers, (self.left, self.right), strict=True)
        return self._replace(
            which=which, numbers=tuple(NumberTiles.split(part, tiles) for part, tiles in sides)
        )

    def counted(self, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """Which pairs of the tile count: not the diagonal, nor what was appended to fill it."""
        height, width = tf.shape(self.left)[1], tf.shape(self.right)[1]
        at = i * height + tf.range(height)[:, None]
        beside = j * width + tf.range(width)[None, :]
        keep = (at < self.n) & (beside < self.k)
        if self.skips_diagonal:
            keep &= (at < beside) if self.symmetric else (at != beside)
        if self.numbers:
            left, right = self.numbers
            equal = left.numbers[i][:, None] == right.numbers[j][None, :]
            keep &= equal if self.which == "equal" else ~equal
        return keep

    def is_edge(self, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """Whether some pairs of the tile may not count."""
        if self.which == "equal":
            return tf.constant(True)
        height, width = tf.shape(self.left)[1], tf.shape(self.right)[1]
        bottom, last = (i + 1) * height, (j + 1) * width
        edge = (bottom > self.n) | (last > self.k)
        if self.skips_diagonal:  # where the ranges of rows and columns meet
            edge |= (i * height < last) & (j * width < bottom)
        return edge | self._meet(i, j) if self.numbers else edge

    def _meet(self, i: tf.Tensor, j: tf.Tensor | slice) -> tf.Tensor:
        """Whether a number may occur on both sides: whether their ranges meet."""
        left, right = self.numbers
        return (left.least[i] <= right.largest[j]) & (right.least[j] <= left.largest[i])

    def _columns(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The first tile of columns beside the tile i of rows, and the one after the last."""
        start, stop = i if self.symmetric else tf.zeros_like(i), tf.shape(self.right)[0]
        if self.quarters is not None:
            half, some = stop // 2, self.quarters > 0
            behind = (i >= tf.shape(self.left)[0] // 2) != (self.quarters == 2)
            start = tf.where(some & behind, half, start)
            stop = tf.where(some & ~behind, half, stop)
        if self.which != "equal":
            return start, stop
        end = tf.shape(self.right)[0]
        place, meet = tf.range(end), self._meet(i, slice(None))
        first = tf.reduce_min(tf.where(meet, place, end))
        last = tf.reduce_max(tf.where(meet, place + 1, 0))
        return tf.maximum(start, first), tf.minimum(stop, last)

    def sweep(self, add: Callable[[tf.Tensor, tf.Tensor, Any], Any], state: Any) -> Any:
        """The state after add(i, j, state) of every tile; if symmetric, those with i <= j.

        Where pairs with equal numbers count, tiles that have none may be left out.
        """

        def line(i: tf.Tensor, state: Any) -> list[Any]:
            start, stop = self._columns(i)
            inside = lambda j, _: j < stop  # noqa: E731
            step = lambda j, state: [j + 1, add(i, j, state)]  # noqa: E731
            return [i + 1, tf.while_loop(inside, step, [start, state])[1]]

        above = lambda i, _: i < tf.shape(self.left)[0]  # noqa: E731
        return tf.while_loop(above, line, [tf.constant(0), state])[1]


class GradientSums(NamedTuple):
    """Sums over the tiles of one side: W y, and the row sums of W if z has squared lengths."""

    products: tf.Tensor
    masses: tf.Tensor | tuple[()]

    @classmethod
    def zeros(cls, tiles: tf.Tensor, has_lengths: bool) -> GradientSums:
        """The sums before a tile is added, on the side of `tiles`."""
        return cls(tf.zeros_like(tiles), tf.zeros_like(tiles[..., 0]) if has_lengths else ())

    def add(self, place: tf.Tensor, weight: tf.Tensor, others: tf.Tensor) -> GradientSums:
        """Add the weights of one tile times the features on its other side."""
        at = place[None, None]
        products = tf.tensor_scatter_nd_add(self.products, at, tf.matmul(weight, others)[None])
        masses = self.masses
        if isinstance(masses, tf.Tensor):
            masses = tf.tensor_scatter_nd_add(masses, at, tf.reduce_sum(weight, axis=1)[None])
        return GradientSums(products, masses)

    def finish(self, a: float, b: float, scale: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
        """d/dside of scale times the sum over pairs: a W y + 2 b (sum of W) side."""
        n = tf.shape(side)[0]
        gradient = a * tf.reshape(self.products, [-1, tf.shape(side)[1]])[:n]
        if isinstance(self.masses, tf.Tensor):
            gradient += 2.0 * b * tf.reshape(self.masses, [-1])[:n, None] * side
        return scale * gradient


def split_tiles(x: tf.Tensor, tile: int, least: int = 1) -> tf.Tensor:
    """(N, D) as (tiles, rows, D) of equally many rows, at most `tile`; zeros fill the last one.

    There are `least` tiles or more.
    """
    n = x.shape[0] or tf.shape(x)[0]  # XLA knows it, even where the graph does not
    count = -(-n // tile)
    count = count if least == 1 else tf.maximum(count, least)
    size = -(-n // count)
    padded = tf.pad(x, [[0, count * size - n], [0, 0]])
    return tf.reshape(padded, [count, size, x.shape[1] or tf.shape(x)[1]])


def in_tiles(values: tf.Tensor, tiles: tf.Tensor) -> tf.Tensor:
    """One value a row, (N,), as (tiles, rows), for rows that were split into `tiles`."""
    count, rows = tf.unstack(tf.shape(tiles)[:2])
    return tf.reshape(tf.pad(values, [[0, count * rows - tf.size(values)]]), [count, rows])
