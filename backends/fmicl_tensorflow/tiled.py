"""The exact loss with memory linear in the batch: value and gradient in one pass over tiles.

Every negative enters through a plain mean, so that a tile's penalty and its contribution to the
gradient are both final as soon as the tile is known, and the tile can be forgotten. The sweep is a
`tf.while_loop` that XLA compiles, whether or not the surrounding code is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_core.checks import once_differentiable
from fmicl_core.forms import tile_size
from fmicl_tensorflow.ops import TENSORFLOW, square_lengths


class Plan(NamedTuple):
    """All that a sweep of one block depends on, beside its features: the key of a compiled one."""

    pairwise: Pairwise
    skips_diagonal: bool
    tile: int


def tiled_block_mean(
    left: tf.Tensor, right: tf.Tensor | None, pairwise: Pairwise, skips_diagonal: bool
) -> tf.Tensor:
    """Mean excess over the pairs (left_i, right_j), i != j if so asked; right None means left."""
    sweep = _compiled_sweep(Plan(pairwise, skips_diagonal, tile_size(device())))
    sides = [left] if right is None else [left, right]

    @tf.custom_gradient
    def mean_of(*sides: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        # Else an enclosing tape would ask TensorFlow for the derivative of the sweep itself.
        mean, *gradients = sweep(*(tf.stop_gradient(side) for side in sides))

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            pairs = zip(gradients, sides, strict=True)
            return [times_once(upstream, gradient, side) for gradient, side in pairs]

        return mean, backward

    return mean_of(*sides)


def device() -> str:
    """The kind of device that TensorFlow computes on."""
    return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"


@tf.custom_gradient
def times_once(
    upstream: tf.Tensor, gradient: tf.Tensor, side: tf.Tensor
) -> tuple[tf.Tensor, Callable[..., None]]:
    """Gradient times upstream; `side` ties it to the features, so that an outer tape gets here."""

    def backward(*_: tf.Tensor) -> None:
        raise once_differentiable()

    return upstream * gradient, backward


@lru_cache(maxsize=1024)
def _compiled_sweep(plan: Plan) -> Callable[..., list[tf.Tensor]]:
    """The sweep of these settings, compiled anew for every shape."""

    @tf.function(jit_compile=True, autograph=False)
    def sweep(*sides: tf.Tensor) -> list[tf.Tensor]:
        return _sweep(plan, *sides)

    return sweep


def _sweep(plan: Plan, *sides: tf.Tensor) -> list[tf.Tensor]:
    """The mean excess and its gradients in the sides.

    A symmetric block (one side) visits each pair once, i < j.
    """
    pairwise, skips_diagonal, tile = plan
    a, b, c = pairwise.coefficients()
    left, right, symmetric = sides[0], sides[-1], len(sides) == 1
    n, k = tf.shape(left)[0], tf.shape(right)[0]
    rows, columns = split_tiles(left, tile), split_tiles(right, tile)
    grid = TileGrid(rows, columns, n, k, symmetric, skips_diagonal)

    def inside(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return pairwise.excess_total_and_slope(z, TENSORFLOW)

    def at_edge(z: tf.Tensor, i: tf.Tensor, j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Total and slopes without the diagonal and what was appended to fill the tile."""
        keep = grid.counted(i, j)
        excess, slope = pairwise.excess_and_slope(z, TENSORFLOW)
        zero = tf.zeros_like(z)
        return TENSORFLOW.sum(tf.where(keep, excess, zero)), tf.where(keep, slope, zero)

    def add(i: tf.Tensor, j: tf.Tensor, state: list[Any]) -> list[Any]:
        total, sums = state
        x, y = rows[i], columns[j]
        z = tf.matmul(a * x, y, transpose_b=True) + c
        if b:
            z += b * (square_lengths(x)[:, None] + square_lengths(y)[None, :])
        part, weight = tf.cond(grid.is_edge(i, j), lambda: at_edge(z, i, j), lambda: inside(z))
        sums = [sums[0].add(i, weight, y), *sums[1:]]
        sums[-1] = sums[-1].add(j, tf.transpose(weight), x)
        return [total + part, sums]

    sums = [
        GradientSums.zeros(tiles, bool(b)) for tiles in ([rows] if symmetric else [rows, columns])
    ]
    zero = tf.zeros((), left.dtype)
    total, sums = grid.sweep(add, [zero, sums])
    pairs = tf.cast(n, left.dtype) * tf.cast(k - 1 if skips_diagonal else k, left.dtype)
    scale = (2.0 if symmetric else 1.0) / tf.maximum(pairs, 1.0)
    gradients = [s.finish(a, b, scale, side) for s, side in zip(sums, sides, strict=True)]
    return [scale * total, *gradients]


class TileGrid(NamedTuple):
    """The tiles of a block of n x k pairs: (tiles, rows, D) of the left, likewise of the right."""

    left: tf.Tensor
    right: tf.Tensor
    n: tf.Tensor
    k: tf.Tensor
    symmetric: bool
    skips_diagonal: bool

    def counted(self, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """Which pairs of the tile count: not the diagonal, nor what was appended to fill it."""
        height, width = tf.shape(self.left)[1], tf.shape(self.right)[1]
        at = i * height + tf.range(height)[:, None]
        beside = j * width + tf.range(width)[None, :]
        keep = (at < self.n) & (beside < self.k)
        if self.skips_diagonal:
            keep &= (at < beside) if self.symmetric else (at != beside)
        return keep

    def is_edge(self, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """Whether some pairs of the tile do not count."""
        height, width = tf.shape(self.left)[1], tf.shape(self.right)[1]
        bottom, last = (i + 1) * height, (j + 1) * width
        edge = (bottom > self.n) | (last > self.k)
        if self.skips_diagonal:  # where the ranges of rows and columns meet
            edge |= (i * height < last) & (j * width < bottom)
        return edge

    def sweep(self, add: Callable[[tf.Tensor, tf.Tensor, Any], Any], state: Any) -> Any:
        """The state after add(i, j, state) of every tile; if symmetric, those with i <= j."""

        def line(i: tf.Tensor, state: Any) -> list[Any]:
            start = i if self.symmetric else tf.zeros_like(i)
            inside = lambda j, _: j < tf.shape(self.right)[0]  # noqa: E731
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
        """d/dside of scale times the sum of penalties: a W y + 2 b (sum of W) side."""
        n = tf.shape(side)[0]
        gradient = a * tf.reshape(self.products, [-1, tf.shape(side)[1]])[:n]
        if isinstance(self.masses, tf.Tensor):
            gradient += 2.0 * b * tf.reshape(self.masses, [-1])[:n, None] * side
        return scale * gradient


def split_tiles(x: tf.Tensor, tile: int) -> tf.Tensor:
    """(N, D) as (tiles, rows, D) of equally many rows, at most `tile`; zeros fill the last one."""
    n = x.shape[0] or tf.shape(x)[0]  # XLA knows it, even where the graph does not
    count = -(-n // tile)
    size = -(-n // count)
    padded = tf.pad(x, [[0, count * size - n], [0, 0]])
    return tf.reshape(padded, [count, size, x.shape[1] or tf.shape(x)[1]])
