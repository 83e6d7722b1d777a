"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Pairs
from fmicl_core.related import SoftmaxBlock, info_nce_anchors, info_nce_blocks
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.ids import Numbers
from fmicl_tensorflow.ops import TENSORFLOW
from fmicl_tensorflow.tiled import device, differentiable_once, permuted
from fmicl_tensorflow.tiles import GradientSums, TileGrid, in_tiles, split_tiles


class Plan(NamedTuple):
    """All that the two passes depend on, beside their arrays: the key of compiled ones."""

    names: tuple[str, ...]
    pairs: Pairs
    has_ids: bool
    tile: int


def tiled_info_nce(
    rows: Rows,
    pairs: Pairs,
    numbers: Numbers | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """`dense_info_nce` in two passes, once differentiable."""
    plan = Plan(tuple(rows), pairs, numbers is not None, tile_size(device()))
    first, second = _compiled_passes(plan)
    by_name: Rows = {}
    if numbers is not None and weights is not None:
        of = {name: numbers.bank if name == "bank" else numbers.own for name in rows}
        orders = {k: tf.argsort(part, stable=True) for k, part in of.items() if part is not None}
        rows = {k: permuted(v, orders[k]) if k in orders else v for k, v in rows.items()}
        by_name = {name: tf.gather(of[name], order) for name, order in orders.items()}
        weights = tf.gather(weights, orders["x"])

    def loss_of(*sides: tf.Tensor) -> tuple[tf.Tensor, Callable[[], list[tf.Tensor]]]:
        loss, softmaxes = first(by_name, weights, *sides)
        return loss, lambda: second(by_name, softmaxes, *sides)

    return differentiable_once(loss_of, *rows.values())


@lru_cache(maxsize=1024)
def _compiled_passes(plan: Plan) -> tuple[Callable[..., Any], ...]:
    """The two passes of this plan, compiled anew for every shape."""

    @tf.function(jit_compile=True, autograph=False)
    def first(
        numbers: Rows, weights: tf.Tensor | None, *sides: tf.Tensor
    ) -> tuple[tf.Tensor, Softmaxes]:
        return _log_sums(_Scores(plan, sides, numbers), weights)

    @tf.function(jit_compile=True, autograph=False)
    def second(numbers: Rows, softmaxes: Softmaxes, *sides: tf.Tensor) -> list[tf.Tensor]:
        return _gradients(_Scores(plan, sides, numbers), softmaxes)

    return first, second


class _Scores:
    """What both passes see: the features in tiles, and the scores of a tile of pairs."""

    def __init__(self, plan: Plan, sides: tuple[tf.Tensor, ...], numbers: Rows) -> None:
        self.pairs = plan.pairs
        self.anchors = [name for name, _ in info_nce_anchors(plan.pairs)]
        self.blocks = info_nce_blocks(plan.pairs, plan.has_ids)
        self.rows = dict(zip(plan.names, sides, strict=True))
        self.tiles = {name: split_tiles(side, plan.tile) for name, side in self.rows.items()}
        self.numbers, self.tile = numbers, plan.tile

    def grid(self, part: SoftmaxBlock) -> TileGrid:
        """The tiles of a block; a symmetric one has each pair once, i < j."""
        block = part.block
        left, right = block.left, block.right
        n, k = (tf.shape(self.rows[name])[0] for name in (left, right))
        tiles = self.tiles[left], self.tiles[right]
        grid = TileGrid(*tiles, n, k, block.symmetric, block.skips_diagonal)
        if part.which == "every" or right not in self.numbers:
            return grid
        return grid.with_numbers(part.which, (self.numbers[left], self.numbers[right]))


def scores_at(grid: TileGrid, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
    """The scores of a tile; pairs that do not count score -inf."""
    s = tf.matmul(grid.left[i], grid.right[j], transpose_b=True)
    never = tf.fill(tf.shape(s), tf.constant(-float("inf"), s.dtype))
    return tf.cond(grid.is_edge(i, j), lambda: tf.where(grid.counted(i, j), s, never), lambda: s)


def _log_sums(scores: _Scores, weights: tf.Tensor | None) -> tuple[tf.Tensor, Softmaxes]:
    """The loss, and the softmaxes by the name of the anchors' view, in tiles."""
    x = scores.tiles["x"]
    sums = dict.fromkeys(scores.anchors, LogSum.none_yet(x[..., 0]))
    for part in scores.blocks:
        sums = _sum_block(scores, part, sums)
    some = None if weights is None else in_tiles(weights, x) > 0.0
    softmaxes = softmaxes_of(sums, scores.tiles, scores.pairs, some)
    n = tf.shape(scores.rows["x"])[0]
    return tf.reduce_mean(losses_of(softmaxes, scores.pairs, n)), softmaxes


class Softmax(NamedTuple):
    """What makes up every anchor's softmax."""

    peak: tf.Tensor  # the largest score but that of (x_i, y_i)
    log: tf.Tensor  # log-sum-exp of all scores in the softmax, less the peak
    margin: tf.Tensor  # log-sum-exp of all but (x_i, y_i), less the score of that pair

    def log_share(self, place: tf.Tensor, scores: tf.Tensor, axis: int) -> tf.Tensor:
        """Logarithms of the softmax of one tile of anchors, with the others along `axis`."""
        peak, log = (tf.expand_dims(part[place], axis) for part in (self.peak, self.log))
        return scores - peak - log


#: By the name of the anchors' view.
Softmaxes = dict[str, Softmax]


def _sum_block(scores: _Scores, part: SoftmaxBlock, sums: LogSums) -> LogSums:
    grid, block = scores.grid(part), part.block

    def add(i: tf.Tensor, j: tf.Tensor, sums: LogSums) -> LogSums:
        s = scores_at(grid, i, j)
        sums = {**sums, block.left: sums[block.left].add(i, s, axis=1)}
        if part.both:
            sums = {**sums, block.right: sums[block.right].add(j, s, axis=0)}
        return sums

    return grid.sweep(add, sums)


class LogSum(NamedTuple):
    """The running log-sum-exp of every anchor's scores but that of (x_i, y_i).

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    peak: tf.Tensor
    total: tf.Tensor  # of e^(score - peak)

    @classmethod
    def none_yet(cls, like: tf.Tensor) -> LogSum:
        """The sum before a score is added, shaped `like` this; its peak is finite."""
        return cls(tf.fill(tf.shape(like), 0.5 * like.dtype.min), tf.zeros_like(like))

    def add(self, place: tf.Tensor, scores: tf.Tensor, axis: int) -> LogSum:
        """Add the scores of one tile of anchors with the others along `axis`."""
        before = self.peak[place]
        peak = tf.maximum(before, tf.reduce_max(scores, axis=axis))
        part = tf.reduce_sum(tf.exp(scores - tf.expand_dims(peak, axis)), axis=axis)
        total = self.total[place] * tf.exp(before - peak) + part
        at = place[None, None]
        return LogSum(
            tf.tensor_scatter_nd_update(self.peak, at, peak[None]),
            tf.tensor_scatter_nd_update(self.total, at, total[None]),
        )

    def united(self) -> LogSum:
        """The sum of sums along their first axis."""
        peak = tf.reduce_max(self.peak, axis=0)
        return LogSum(peak, tf.reduce_sum(self.total * tf.exp(self.peak - peak), axis=0))

    def beside(self, positive: tf.Tensor, decoupled: bool) -> Softmax:
        """The softmaxes, given the scores of (x_i, y_i), which decoupled ones do not hold."""
        log = self._log()
        margin = self.peak - positive + log
        return Softmax(self.peak, log if decoupled else log + TENSORFLOW.softplus(-margin), margin)

    def where(self, some: tf.Tensor) -> Softmax:
        """The softmaxes of a single array; an anchor without `some` positive has none."""
        log = self._log()
        margin = tf.where(some, self.peak + log, tf.zeros_like(log))
        return Softmax(self.peak, tf.where(some, log, math.inf), margin)

    def _log(self) -> tf.Tensor:
        """Log of the total; of 1 for an anchor without pairs, as a row that only fills a tile."""
        return tf.math.log(tf.where(self.total == 0.0, tf.ones_like(self.total), self.total))


#: By the name of the anchors' view.
LogSums = dict[str, LogSum]


def softmaxes_of(sums: LogSums, rows: Rows, pairs: Pairs, some: tf.Tensor | None) -> Softmaxes:
    """The softmaxes of all anchors, in the shape of their sums.

    Args:
        sums: log-sum-exps of their scores but those of the pairs (x_i, y_i).
        rows: features by name, in that shape and their width.
        pairs: pairs that count.
        some: whether an anchor of a single array has a positive.
    """
    if pairs.single and some is not None:
        return {name: total.where(some) for name, total in sums.items()}
    positive = tf.reduce_sum(rows["x"] * rows["y"], axis=-1)
    return {name: total.beside(positive, pairs.decoupled) for name, total in sums.items()}


def losses_of(softmaxes: Softmaxes, pairs: Pairs, n: tf.Tensor) -> tf.Tensor:
    """The loss of every anchor, without what only fills a tile; (anchor views, n)."""
    margins = tf.stack([tf.reshape(softmax.margin, [-1])[:n] for softmax in softmaxes.values()])
    alone = pairs.single or pairs.decoupled  # no (x_i, y_i) stands in a softmax
    return margins if alone else TENSORFLOW.softplus(margins)


def pull_of_views(softmaxes: Softmaxes, rows: Rows, pairs: Pairs) -> Rows:
    """What the pairs (x_i, y_i) pull at the rows of x and y (n, D), summed over the anchors.

    It is their probability less 1, in a form that keeps the digits.
    """
    if pairs.single:
        return {}
    pulls = [
        -(tf.ones_like(margin) if pairs.decoupled else TENSORFLOW.sigmoid(margin))
        for _, _, margin in softmaxes.values()
    ]
    pull = tf.reshape(tf.add_n(pulls), [-1])[: tf.shape(rows["x"])[0], None]
    return {"x": pull * rows["y"], "y": pull * rows["x"]}


def _gradients(scores: _Scores, softmaxes: Softmaxes) -> list[tf.Tensor]:
    """The gradients in the sides."""
    sums = {name: GradientSums.zeros(tiles, False) for name, tiles in scores.tiles.items()}
    for part in scores.blocks:
        sums = _pull_block(scores, part, softmaxes, sums)
    own = pull_of_views(softmaxes, scores.rows, scores.pairs)
    one = tf.ones((), scores.rows["x"].dtype)
    count = tf.cast(len(softmaxes) * tf.shape(scores.rows["x"])[0], one.dtype)
    sides = {name: sums[name].finish(1.0, 0.0, one, side) for name, side in scores.rows.items()}
    return [(side + own.get(name, 0.0)) / count for name, side in sides.items()]


def _pull_block(
    scores: _Scores,
    part: SoftmaxBlock,
    softmaxes: Softmaxes,
    sums: dict[str, GradientSums],
) -> dict[str, GradientSums]:
    grid, block = scores.grid(part), part.block

    def add(i: tf.Tensor, j: tf.Tensor, sums: dict[str, GradientSums]) -> dict[str, GradientSums]:
        s = scores_at(grid, i, j)
        weight = tf.exp(softmaxes[block.left].log_share(i, s, axis=1))
        if part.both:
            weight += tf.exp(softmaxes[block.right].log_share(j, s, axis=0))
        sums = {**sums, block.left: sums[block.left].add(i, weight, grid.right[j])}
        pulled = sums[block.right].add(j, tf.transpose(weight), grid.left[i])
        return {**sums, block.right: pulled}

    return grid.sweep(add, sums)
