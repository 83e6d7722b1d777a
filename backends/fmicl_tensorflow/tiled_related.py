"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Block
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.ops import TENSORFLOW
from fmicl_tensorflow.tiled import GradientSums, TileGrid, device, split_tiles, times_once


class Plan(NamedTuple):
    """All that the two passes depend on, beside numbers: the key of compiled ones."""

    names: tuple[str, ...]
    negatives: str
    tile: int


def tiled_info_nce(rows: Rows, temperature: float, negatives: str) -> tf.Tensor:
    """InfoNCE in two passes, once differentiable; equals

        positive = reduce_sum(x * y, axis=1) / temperature
        every = concat([positive[:, None], negative_scores], axis=1)
        reduce_mean(reduce_logsumexp(every, axis=1) - positive)

    averaged over the anchor views, with negative_scores (N, all negatives of the anchor).

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        temperature: temperature > 0 that scores are divided by.
        negatives: name of the scheme of negatives.
    """
    first, second = _compiled_passes(Plan(tuple(rows), negatives, tile_size(device())))
    divisor = tf.constant(temperature, rows["x"].dtype)

    @tf.custom_gradient
    def loss_of(*sides: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        # Else an enclosing tape would ask TensorFlow for the derivatives of the passes themselves.
        fixed = [tf.stop_gradient(side) for side in sides]
        loss, softmaxes = first(divisor, *fixed)

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            pairs = zip(second(divisor, softmaxes, *fixed), sides, strict=True)
            return [times_once(upstream, gradient, side) for gradient, side in pairs]

        return loss, backward

    return loss_of(*rows.values())


@lru_cache(maxsize=1024)
def _compiled_passes(plan: Plan) -> tuple[Callable[..., Any], ...]:
    """The two passes of this plan, compiled anew for every shape."""

    @tf.function(jit_compile=True, autograph=False)
    def first(temperature: tf.Tensor, *sides: tf.Tensor) -> tuple[tf.Tensor, Softmaxes]:
        return _log_sums(_Scores(plan, sides, temperature))

    @tf.function(jit_compile=True, autograph=False)
    def second(temperature: tf.Tensor, softmaxes: Softmaxes, *sides: tf.Tensor) -> list[tf.Tensor]:
        return _gradients(_Scores(plan, sides, temperature), softmaxes)

    return first, second


class _Scores:
    """What both passes see: the features in tiles, and the scores of a tile of pairs."""

    def __init__(self, plan: Plan, sides: tuple[tf.Tensor, ...], temperature: tf.Tensor) -> None:
        has_bank = "bank" in plan.names
        self.anchors = [name for name, _ in info_nce_anchors(plan.negatives, has_bank)]
        self.blocks = info_nce_blocks(plan.negatives, has_bank)
        self.rows = dict(zip(plan.names, sides, strict=True))
        self.tiles = {name: split_tiles(side, plan.tile) for name, side in self.rows.items()}
        self.temperature = temperature

    def grid(self, block: Block) -> TileGrid:
        """The tiles of a block; a symmetric one has each pair once, i < j."""
        left, right = block.left, block.right
        n, k = (tf.shape(self.rows[name])[0] for name in (left, right))
        tiles = self.tiles[left], self.tiles[right]
        return TileGrid(*tiles, n, k, block.symmetric, block.skips_diagonal)

    def at(self, grid: TileGrid, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """The scores of a tile; pairs that do not count score -inf."""
        s = tf.matmul(grid.left[i] / self.temperature, grid.right[j], transpose_b=True)
        never = tf.fill(tf.shape(s), tf.constant(-float("inf"), s.dtype))
        return tf.cond(
            grid.is_edge(i, j), lambda: tf.where(grid.counted(i, j), s, never), lambda: s
        )


def _log_sums(scores: _Scores) -> tuple[tf.Tensor, Softmaxes]:
    """The loss, and the softmaxes by the name of the anchors' view, in tiles."""
    positive = tf.reduce_sum(scores.tiles["x"] * scores.tiles["y"], axis=2) / scores.temperature
    sums = dict.fromkeys(scores.anchors, _LogSum.none_yet(positive))
    for block, both in scores.blocks:
        sums = _sum_block(scores, block, both, sums)
    softmaxes = {name: total.with_positive(positive) for name, total in sums.items()}
    n = tf.shape(scores.rows["x"])[0]
    margins = [tf.reshape(softmax.margin, [-1])[:n] for softmax in softmaxes.values()]
    return tf.reduce_mean(TENSORFLOW.softplus(tf.stack(margins))), softmaxes


class _Softmax(NamedTuple):
    """What makes up every anchor's softmax over its positive and all of its negatives."""

    peak: tf.Tensor  # the largest score of a negative
    log: tf.Tensor  # log-sum-exp of all scores, less the peak
    margin: tf.Tensor  # log-sum-exp of the negatives, less the score of the positive

    def log_share(self, place: tf.Tensor, scores: tf.Tensor, axis: int) -> tf.Tensor:
        """Logarithms of the softmax of one tile of anchors, with their negatives along `axis`."""
        peak, log = (tf.expand_dims(part[place], axis) for part in (self.peak, self.log))
        return scores - peak - log


#: By the name of the anchors' view.
Softmaxes = dict[str, _Softmax]


def _sum_block(scores: _Scores, block: Block, both: bool, sums: LogSums) -> LogSums:
    grid = scores.grid(block)

    def add(i: tf.Tensor, j: tf.Tensor, sums: LogSums) -> LogSums:
        s = scores.at(grid, i, j)
        sums = {**sums, block.left: sums[block.left].add(i, s, axis=1)}
        if both:
            sums = {**sums, block.right: sums[block.right].add(j, s, axis=0)}
        return sums

    return grid.sweep(add, sums)


class _LogSum(NamedTuple):
    """The running log-sum-exp of the scores of every anchor's negatives.

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    peak: tf.Tensor
    total: tf.Tensor  # of e^(score - peak)

    @classmethod
    def none_yet(cls, like: tf.Tensor) -> _LogSum:
        """The sum before a score is added, shaped `like` this; its peak is finite."""
        return cls(tf.fill(tf.shape(like), 0.5 * like.dtype.min), tf.zeros_like(like))

    def add(self, place: tf.Tensor, scores: tf.Tensor, axis: int) -> _LogSum:
        """Add the scores of one tile of anchors with their negatives along `axis`."""
        before = self.peak[place]
        peak = tf.maximum(before, tf.reduce_max(scores, axis=axis))
        part = tf.reduce_sum(tf.exp(scores - tf.expand_dims(peak, axis)), axis=axis)
        total = self.total[place] * tf.exp(before - peak) + part
        at = place[None, None]
        return _LogSum(
            tf.tensor_scatter_nd_update(self.peak, at, peak[None]),
            tf.tensor_scatter_nd_update(self.total, at, total[None]),
        )

    def with_positive(self, positive: tf.Tensor) -> _Softmax:
        """The softmaxes, given the scores of the positives."""
        total = tf.where(self.total == 0.0, tf.ones_like(self.total), self.total)
        log = tf.math.log(total)  # of 1 for a row that only fills a tile
        margin = self.peak - positive + log
        return _Softmax(self.peak, log + TENSORFLOW.softplus(-margin), margin)


#: By the name of the anchors' view.
LogSums = dict[str, _LogSum]


def _gradients(scores: _Scores, softmaxes: Softmaxes) -> list[tf.Tensor]:
    """The gradients in the sides."""
    sums = {name: GradientSums.zeros(tiles, False) for name, tiles in scores.tiles.items()}
    for block, both in scores.blocks:
        sums = _pull_block(scores, block, both, softmaxes, sums)
    # Of every anchor's positive: its probability less 1, in a form that keeps the digits.
    pulls = [-TENSORFLOW.sigmoid(softmax.margin) for softmax in softmaxes.values()]
    n = tf.shape(scores.rows["x"])[0]
    pull = tf.reshape(tf.add_n(pulls), [-1])[:n, None]
    own = {"x": pull * scores.rows["y"], "y": pull * scores.rows["x"]}
    count = tf.cast(len(softmaxes) * n, pull.dtype)
    one, scale = tf.ones((), pull.dtype), 1.0 / (scores.temperature * count)
    sides = {name: sums[name].finish(1.0, 0.0, one, side) for name, side in scores.rows.items()}
    return [scale * (side + own.get(name, 0.0)) for name, side in sides.items()]


def _pull_block(
    scores: _Scores,
    block: Block,
    both: bool,
    softmaxes: Softmaxes,
    sums: dict[str, GradientSums],
) -> dict[str, GradientSums]:
    grid = scores.grid(block)

    def add(i: tf.Tensor, j: tf.Tensor, sums: dict[str, GradientSums]) -> dict[str, GradientSums]:
        s = scores.at(grid, i, j)
        weight = tf.exp(softmaxes[block.left].log_share(i, s, axis=1))
        if both:
            weight += tf.exp(softmaxes[block.right].log_share(j, s, axis=0))
        sums = {**sums, block.left: sums[block.left].add(i, weight, grid.right[j])}
        pulled = sums[block.right].add(j, tf.transpose(weight), grid.left[i])
        return {**sums, block.right: pulled}

    return grid.sweep(add, sums)
