"""InfoNCE over replicas: two passes of rounds, in which shards are shown as in the ring of f-MICL.

The first pass finds every anchor's log-sum-exp, the second the weights and what they pull. Both
are in the forward pass, so that no replica waits for another one's backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import tensorflow as tf

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Pairs
from fmicl_core.related import (
    SoftmaxBlock,
    info_nce_anchors,
    info_nce_blocks,
    info_nce_positives,
)
from fmicl_tensorflow.dense import Rows, Sides
from fmicl_tensorflow.distributed import Replicas
from fmicl_tensorflow.ids import Numbers
from fmicl_tensorflow.ops import TENSORFLOW
from fmicl_tensorflow.ring import Ring, Shard
from fmicl_tensorflow.tiled import device, permuted, times_once
from fmicl_tensorflow.tiled_related import LogSum, Softmax, Softmaxes, scores_at
from fmicl_tensorflow.tiles import GradientSums, TileGrid, split_tiles


class Plan(NamedTuple):
    """All that the visit of one rectangle of pairs depends on: the key of a compiled one.

    Args:
        symmetric: whether both sides are the same rows.
        skips_diagonal: whether pairs with i = j are left out.
        both: whether the rows on the right are anchors, too.
        which: pairs that count, by their ids.
        tile: rows and columns of a tile, at most.
    """

    symmetric: bool
    skips_diagonal: bool
    both: bool
    which: str
    tile: int


class Visit(NamedTuple):
    """A rectangle of pairs: this replica's rows with those of guests, or of the bank.

    Args:
        part: block that it is of.
        plan: what its compiled passes depend on.
        mine: place of this replica's rows.
        other: place of the rows on its right.
        left: rows on its left.
        right: rows on its right.
    """

    part: SoftmaxBlock
    plan: Plan
    mine: slice
    other: slice
    left: Shard
    right: Shard

    @property
    def arrays(self) -> tuple[Sides | None, Sides, list[tf.Tensor]]:
        """Numbers, sizes and features of the sides, as the compiled passes take them."""
        block, numbers = self.part.block, None
        if self.plan.which != "every":
            numbers = self.left.numbers, self.right.numbers
        sides = [self.left.rows[block.left], self.right.rows[block.right]]
        return numbers, (self.left.size, self.right.size), sides[: 1 if self.plan.symmetric else 2]


def ring_info_nce(
    rows: Rows,
    pairs: Pairs,
    replicas: Replicas,
    numbers: Numbers | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """This replica's part of InfoNCE of the union, whose sum over the replicas is the loss.

    Once differentiable; the gradient in this replica's rows is that of the whole loss.

    Args:
        rows: features of this replica by name, and of the bank, which all replicas have.
        pairs: pairs that count.
        replicas: replicas that share the batch.
        numbers: numbers of the rows; None without ids.
        weights: one over the number of positives of every row, or 0; (n,); None without ids.
    """
    names = list(rows)
    bank = numbers.bank if numbers is not None else None
    if numbers is not None and weights is not None:
        order = tf.argsort(numbers.own, stable=True)
        weights = tf.gather(weights, order)
        orders = {name: order for name in names if name != "bank"}
        if bank is not None:
            orders["bank"] = tf.argsort(bank, stable=True)
            bank = tf.gather(bank, orders["bank"])
        rows = {k: permuted(v, orders[k]) if k in orders else v for k, v in rows.items()}

    @tf.custom_gradient
    def part_of(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        fixed = dict(zip(names, (tf.stop_gradient(side) for side in inputs), strict=True))
        value, gradients = _Passes(fixed, pairs, replicas, numbers, weights, bank).run()

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            found = zip((gradients[name] for name in names), inputs, strict=True)
            return [times_once(upstream, gradient, side) for gradient, side in found]

        return value, backward

    return part_of(*rows.values())


class _Passes:
    """Both passes over the rows of one replica, which are in order of their numbers.

    Args:
        rows, pairs, replicas, numbers, weights: arguments of `ring_info_nce`.
        bank: numbers of the bank's rows, in order, or None.
    """

    def __init__(
        self,
        rows: Rows,
        pairs: Pairs,
        replicas: Replicas,
        numbers: Numbers | None,
        weights: tf.Tensor | None,
        bank: tf.Tensor | None,
    ) -> None:
        self.rows, self.pairs, self.replicas, self.weights = rows, pairs, replicas, weights
        self.ring = Ring(replicas, numbers)
        self.padded = {k: self.ring.padded(v) for k, v in rows.items() if k != "bank"}
        self.anchors = [name for name, _ in info_nce_anchors(pairs)]
        self.blocks = info_nce_blocks(pairs, numbers is not None)
        self.bank = None
        if "bank" in rows:
            self.bank = Shard({"bank": rows["bank"]}, bank, tf.shape(rows["bank"])[0])
        self.dtype = rows["x"].dtype
        self.divisor = tf.cast(len(self.anchors) * replicas.total, self.dtype)

    def run(self) -> tuple[tf.Tensor, Rows]:
        """The part of the loss, and its gradients by name."""
        sums, by_id = self._first()
        x, n = self.padded["x"], self.replicas.rows
        if self.pairs.single and self.weights is not None:
            some = self.ring.padded(self.weights[:, None])[:, 0] > 0.0
            softmaxes = {name: total.where(some) for name, total in sums.items()}
        else:
            positive = tf.reduce_sum(x * self.padded["y"], axis=1)
            decoupled = self.pairs.decoupled
            softmaxes = {name: total.beside(positive, decoupled) for name, total in sums.items()}
        alone = self.pairs.single or self.pairs.decoupled  # no (x_i, y_i) stands in a softmax
        margins = tf.stack([softmax.margin[:n] for softmax in softmaxes.values()])
        value = tf.reduce_sum(margins if alone else TENSORFLOW.softplus(margins))
        gradients = self._second(softmaxes)
        if not self.pairs.single:
            # Of (x_i, y_i): its probability less 1, in a form that keeps the digits.
            pull = -tf.add_n(
                [tf.ones_like(m) if self.pairs.decoupled else TENSORFLOW.sigmoid(m)
                 for _, _, m in softmaxes.values()]
            )[:n, None]  # fmt: skip
            gradients["x"] += pull * self.rows["y"]
            gradients["y"] += pull * self.rows["x"]
        if self.weights is not None:
            value += self._other_positives(self.weights, by_id, gradients)
        return value / self.divisor, {k: v / self.divisor for k, v in gradients.items()}

    def _visits(self, guest: Shard, host: int) -> list[Visit]:
        """What is this replica's work in a round; that with the bank in its own."""
        ring, here = self.ring, host == self.replicas.rank
        own, tile = ring.shard(self.padded, self.replicas.rank), tile_size(device())
        found = []
        for part in self.blocks:
            block, bank = part.block, self.bank
            if block.right == "bank":
                if here and bank is not None:
                    plan = Plan(False, False, False, self._which(part, bank), tile)
                    everything = slice(0, bank.size)
                    found.append(Visit(part, plan, ring.whole, everything, own, bank))
                continue
            plan = Plan(here and block.symmetric, here, part.both, part.which, tile)
            for mine, other in ring.visits(block, host):
                sides = own.part(mine), guest.part(other)
                found.append(Visit(part, plan, mine, other, *sides))
        return found

    @staticmethod
    def _which(part: SoftmaxBlock, right: Shard) -> str:
        return "every" if right.numbers is None else part.which

    def _first(self) -> tuple[dict[str, LogSum], Rows]:
        """The log-sum-exps of this replica's anchors, and by id the sums of all rows."""
        ring, x = self.ring, self.padded["x"]
        sums = dict.fromkeys(self.anchors, LogSum.none_yet(x[:, 0]))
        by_id = {name: tf.zeros_like(side) for name, side in self.padded.items()}
        own = ring.shard(self.padded, self.replicas.rank)
        for host in range(self.replicas.count):
            after = [total.total for total in sums.values()]
            guest = ring.shard(ring.shown(self.padded, host, after), host)
            theirs = dict.fromkeys(self.anchors, LogSum.none_yet(x[:, 0]))
            for visit in self._visits(guest, host):
                peak, total, *right = compiled_passes(visit.plan)[0](*visit.arrays)
                block = visit.part.block
                sums[block.left] = sums[block.left].merged(_placed(ring, peak, total, visit.mine))
                if visit.part.both:
                    beside = _placed(ring, *right, visit.other)
                    theirs[block.right] = theirs[block.right].merged(beside)
            if any(part.both for part in self.blocks):
                # (W, anchors, 2, L): numbers, no features.
                every = self.replicas.gather(tf.stack([tf.stack(v) for v in theirs.values()])[None])
                if host == self.replicas.rank:
                    for i, name in enumerate(theirs):
                        back = LogSum(every[:, i, 0], every[:, i, 1]).united()
                        sums[name] = sums[name].merged(back)
            if self.weights is not None:
                by_id = {k: v + _sums_by_id(own, guest, k) for k, v in by_id.items()}
        return sums, {name: side[: self.replicas.rows] for name, side in by_id.items()}

    def _second(self, softmaxes: Softmaxes) -> Rows:
        """What the softmaxes pull, by name."""
        ring = self.ring
        shown = dict(self.padded)
        for name, softmax in softmaxes.items():
            shown |= {f"{name} peak": softmax.peak[:, None], f"{name} log": softmax.log[:, None]}
        gradients = {k: tf.zeros_like(v) for k, v in (self.rows | self.padded).items()}
        for host in range(self.replicas.count):
            guest = ring.shard(ring.shown(shown, host, list(gradients.values())), host)
            theirs = {name: tf.zeros_like(side) for name, side in self.padded.items()}
            for visit in self._visits(guest, host):
                block = visit.part.block
                given = [_softmax(shown, block.left, visit.mine)]
                if visit.plan.both:
                    given.append(_softmax(guest.rows, block.right, visit.other))
                found = compiled_passes(visit.plan)[1](*visit.arrays, given)
                gradients[block.left] += ring.placed(found[0], visit.mine)
                if block.right == "bank":
                    gradients["bank"] += found[1]
                elif not visit.plan.symmetric:
                    theirs[block.right] += ring.placed(found[1], visit.other)
            home = self.replicas.sum(list(theirs.values()))
            if host == self.replicas.rank:
                for name, back in zip(theirs, home, strict=True):
                    gradients[name] += back
        n = self.replicas.rows
        return {k: v if k == "bank" else v[:n] for k, v in gradients.items()}

    def _other_positives(self, weights: tf.Tensor, by_id: Rows, gradients: Rows) -> tf.Tensor:
        """What the positives beside y_i add, as `fmicl_tensorflow.info_nce` says, to the sum.

        Its gradients are added to the gradients; rows with equal ids have equal weights.
        """
        rows, value, weight = self.rows, tf.zeros((), self.dtype), weights[:, None]
        others = {name: total - rows[name] for name, total in by_id.items()}
        for anchor, views in info_nce_positives(self.pairs).items():
            if not self.pairs.single:
                x, y, rest = rows["x"], rows["y"], 1.0 - weight
                value += tf.reduce_sum(rest * x * y)
                gradients["x"] += rest * y
                gradients["y"] += rest * x
            for view in views:
                value -= tf.reduce_sum(weight * rows[anchor] * others[view])
                gradients[anchor] -= weight * others[view]
                gradients[view] -= weight * others[anchor]
        return value


def _placed(ring: Ring, peak: tf.Tensor, total: tf.Tensor, place: slice) -> LogSum:
    """Log-sum-exps of a slice of the rows as those of all rows."""
    nothing = LogSum.none_yet(peak[:1]).peak[0]
    return LogSum(ring.placed(peak, place, nothing), ring.placed(total, place))


def _softmax(rows: Rows, name: str, place: slice) -> Sides:
    """Peaks and logarithms, see `Softmax`, that were shown beside the rows; each (rows,)."""
    return rows[f"{name} peak"][place, 0], rows[f"{name} log"][place, 0]


def _sums_by_id(own: Shard, guest: Shard, name: str) -> tf.Tensor:
    """For every row of `own` the sum of the guests with its number; (L, D)."""
    assert own.numbers is not None
    assert guest.numbers is not None
    counts = tf.range(tf.size(guest.numbers)) < guest.size
    rows = tf.where(counts[:, None], guest.rows[name], tf.zeros_like(guest.rows[name]))
    first = tf.searchsorted(guest.numbers, guest.numbers)
    sums = tf.math.unsorted_segment_sum(rows, first, tf.size(guest.numbers))
    place = tf.minimum(tf.searchsorted(guest.numbers, own.numbers), tf.size(first) - 1)
    found = tf.gather(guest.numbers, place) == own.numbers
    return tf.where(found[:, None], tf.gather(sums, place), tf.zeros_like(sums))


@lru_cache(maxsize=1024)
def compiled_passes(plan: Plan) -> tuple[Callable[..., list[tf.Tensor]], ...]:
    """The visit of a rectangle in the first and in the second pass, compiled anew for every shape.

    The first takes numbers, sizes and features of the sides, and gives the log-sum-exps of the rows
    on the left and, if they are anchors, of those on the right. The second takes the softmaxes of
    the same rows, too, and gives the gradients in the sides.
    """

    def grid_of(numbers: Sides | None, sizes: Sides, sides: list[tf.Tensor]) -> TileGrid:
        tiles = [split_tiles(side, plan.tile) for side in sides]
        grid = TileGrid(tiles[0], tiles[-1], *sizes, plan.symmetric, plan.skips_diagonal)
        return grid if numbers is None else grid.with_numbers(plan.which, numbers)

    def in_tiles(values: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(split_tiles(values[:, None], plan.tile), axis=2)

    @tf.function(jit_compile=True, autograph=False)
    def first(numbers: Sides | None, sizes: Sides, sides: list[tf.Tensor]) -> list[tf.Tensor]:
        grid = grid_of(numbers, sizes, sides)
        ends = [grid.left, grid.right][: 1 + plan.both]

        def add(i: tf.Tensor, j: tf.Tensor, sums: list[LogSum]) -> list[LogSum]:
            s = scores_at(grid, i, j)
            sums = [sums[0].add(i, s, axis=1), *sums[1:]]
            return [*sums[:-1], sums[-1].add(j, s, axis=0)] if plan.both else sums

        sums = grid.sweep(add, [LogSum.none_yet(end[..., 0]) for end in ends])
        rows = [tf.shape(sides[0])[0], tf.shape(sides[-1])[0]]
        flat = zip(sums, rows, strict=False)
        return [tf.reshape(part, [-1])[:n] for total, n in flat for part in total]

    @tf.function(jit_compile=True, autograph=False)
    def second(
        numbers: Sides | None, sizes: Sides, sides: list[tf.Tensor], given: list[Sides]
    ) -> list[tf.Tensor]:
        grid = grid_of(numbers, sizes, sides)
        tiles = [grid.left, grid.right][: len(sides)]
        softmaxes = [Softmax(in_tiles(peak), in_tiles(log), log) for peak, log in given]

        def add(i: tf.Tensor, j: tf.Tensor, sums: list[GradientSums]) -> list[GradientSums]:
            s = scores_at(grid, i, j)
            weight = tf.exp(softmaxes[0].log_share(i, s, axis=1))
            if plan.both:
                weight += tf.exp(softmaxes[-1].log_share(j, s, axis=0))
            sums = [sums[0].add(i, weight, grid.right[j]), *sums[1:]]
            return [*sums[:-1], sums[-1].add(j, tf.transpose(weight), grid.left[i])]

        sums = grid.sweep(add, [GradientSums.zeros(part, False) for part in tiles])
        one = tf.ones((), sides[0].dtype)
        return [total.finish(1.0, 0.0, one, side) for total, side in zip(sums, sides, strict=True)]

    return first, second
