"""Both passes of InfoNCE over the pairs of one block between two shards, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_tensorflow.dense import Sides
from fmicl_tensorflow.tiled_related import LogSum, Softmax, scores_at
from fmicl_tensorflow.tiles import GradientSums, TileGrid, in_tiles, split_tiles


class Plan(NamedTuple):
    """All that the pairs of a block between two shards depend on: the key of compiled passes.

    Args:
        symmetric: whether both sides are the same rows.
        skips_diagonal: whether pairs with i = j are left out.
        both: whether the rows on the right are anchors, too.
        which: pairs that count, by their ids.
    """

    symmetric: bool
    skips_diagonal: bool
    both: bool
    which: str


@lru_cache(maxsize=1024)
def compiled_passes(plan: Plan, tile: int) -> tuple[Callable[..., list[Any]], ...]:
    """The pairs of a block between two shards in both passes, compiled anew for every shape.

    Both take the numbers, the sizes, the quarters (see `TileGrid`) and the features of the sides.
    The first adds to log-sum-exps of the rows on the left and, if they are anchors, of those on the
    right; the second takes the softmaxes of the same rows, and gives the gradients in the sides.
    """

    def grid_of(
        numbers: Sides | None, sizes: Sides, quarters: tf.Tensor | None, sides: list[tf.Tensor]
    ) -> TileGrid:
        tiles = [split_tiles(side, tile, 1 if quarters is None else 2) for side in sides]
        grid = TileGrid(tiles[0], tiles[-1], *sizes, plan.symmetric, plan.skips_diagonal)
        grid = grid._replace(quarters=quarters)
        return grid if numbers is None else grid.with_numbers(plan.which, numbers)

    @tf.function(jit_compile=True, autograph=False)
    def first(
        numbers: Sides | None,
        sizes: Sides,
        quarters: tf.Tensor | None,
        sides: list[tf.Tensor],
        given: list[LogSum],
    ) -> list[LogSum]:
        grid = grid_of(numbers, sizes, quarters, sides)

        def add(i: tf.Tensor, j: tf.Tensor, sums: list[LogSum]) -> list[LogSum]:
            s = scores_at(grid, i, j)
            sums = [sums[0].add(i, s, axis=1), *sums[1:]]
            return [sums[0], sums[1].add(j, s, axis=0)] if plan.both else sums

        ends = (grid.left, grid.right)
        start = [
            LogSum(*(in_tiles(v, end) for v in total))
            for total, end in zip(given, ends, strict=False)
        ]
        sums = zip(grid.sweep(add, start), given, strict=True)
        return [
            LogSum(*(tf.reshape(v, [-1])[: tf.size(total.peak)] for v in found))
            for found, total in sums
        ]

    @tf.function(jit_compile=True, autograph=False)
    def second(
        numbers: Sides | None,
        sizes: Sides,
        quarters: tf.Tensor | None,
        sides: list[tf.Tensor],
        given: list[Sides],
    ) -> list[tf.Tensor]:
        grid = grid_of(numbers, sizes, quarters, sides)
        ends = (grid.left, grid.right)
        softmaxes = [
            Softmax(in_tiles(peak, end), in_tiles(log, end), log)
            for (peak, log), end in zip(given, ends, strict=False)
        ]

        def add(i: tf.Tensor, j: tf.Tensor, sums: list[GradientSums]) -> list[GradientSums]:
            s = scores_at(grid, i, j)
            weight = tf.exp(softmaxes[0].log_share(i, s, axis=1))
            if plan.both:
                weight += tf.exp(softmaxes[1].log_share(j, s, axis=0))
            sums = [sums[0].add(i, weight, grid.right[j]), *sums[1:]]
            return [*sums[:-1], sums[-1].add(j, tf.transpose(weight), grid.left[i])]

        sums = grid.sweep(add, [GradientSums.zeros(end, False) for end in ends[: len(sides)]])
        one = tf.ones((), sides[0].dtype)
        return [total.finish(1.0, 0.0, one, side) for total, side in zip(sums, sides, strict=True)]

    return first, second
