"""InfoNCE over replicas: two passes of rounds, in which shards are shown as in the ring of f-MICL.

The first pass finds every anchor's log-sum-exp, the second the weights and what they pull. Both
are in the forward pass, so that no replica waits for another one's backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
from fmicl_tensorflow.ring import Ring, Shard
from fmicl_tensorflow.softmax_passes import Plan, compiled_passes
from fmicl_tensorflow.tiled import device, differentiable_once, permuted
from fmicl_tensorflow.tiled_related import (
    LogSum,
    Softmaxes,
    losses_of,
    pull_of_views,
    softmaxes_of,
)

#: A block, its compiled passes, and what both take of it.
Visit = tuple[SoftmaxBlock, tuple[Callable[..., list[Any]], ...], tuple[Any, ...]]


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

    def part_of(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[], list[tf.Tensor]]]:
        sides = dict(zip(names, inputs, strict=True))
        value, gradients = _Passes(sides, pairs, replicas, numbers, weights, bank).run()
        return value, lambda: [gradients[name] for name in names]

    return differentiable_once(part_of, *rows.values())


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
        padded = {k: self.ring.padded(v) for k, v in rows.items() if k != "bank"}
        self.own = self.ring.shard(padded, replicas.rank)
        self.anchors = [name for name, _ in info_nce_anchors(pairs)]
        self.blocks = info_nce_blocks(pairs, numbers is not None)
        #: Whose rows are looked at, in turn; where a bank supplies all pairs, this replica's.
        self.hosts: Sequence[int] = range(replicas.count)
        if numbers is None and "bank" in rows:
            self.hosts = (replicas.rank,)
        self.bank = None
        if "bank" in rows:
            self.bank = Shard({"bank": rows["bank"]}, bank, tf.shape(rows["bank"])[0])
        self.dtype = rows["x"].dtype
        self.divisor = tf.cast(len(self.anchors) * replicas.total, self.dtype)

    def run(self) -> tuple[tf.Tensor, Rows]:
        """The part of the loss, and its gradients by name."""
        sums, by_id = self._first()
        some = None
        if self.weights is not None:
            some = self.ring.padded(self.weights[:, None])[:, 0] > 0.0
        softmaxes = softmaxes_of(sums, self.own.rows, self.pairs, some)
        value = tf.reduce_sum(losses_of(softmaxes, self.pairs, self.replicas.rows))
        gradients = self._second(softmaxes)
        for name, pull in pull_of_views(softmaxes, self.rows, self.pairs).items():
            gradients[name] += pull
        if self.weights is not None:
            value += self._other_positives(self.weights, by_id, gradients)
        return value / self.divisor, {k: v / self.divisor for k, v in gradients.items()}

    def _guest(self, rows: Rows, host: int, after: list[tf.Tensor]) -> Shard:
        """The shard of a host, and what its replica shows beside its rows; see `Ring.shown`."""
        if len(self.hosts) > 1:
            rows = self.ring.shown(rows, host, after)
        return self.ring.shard(rows, host)

    def _visits(self, guest: Shard, host: int) -> list[Visit]:
        """What is this replica's work in a round; that with the bank in its own."""
        here, found = host == self.replicas.rank, []
        for part in self.blocks:
            block, of_bank = part.block, part.block.right == "bank"
            if of_bank and not here:
                continue
            right = self.bank if of_bank else guest
            assert right is not None
            numbers = None
            if part.which != "every" and right.numbers is not None and self.own.numbers is not None:
                numbers = self.own.numbers, right.numbers
            which = "every" if numbers is None else part.which
            one_sided = here and block.symmetric
            plan = Plan(one_sided, here and block.skips_diagonal, part.both, which)
            sides = [self.own.rows[block.left], right.rows[block.right]][: 1 if one_sided else 2]
            quarters = None if here else self.ring.quarters(block, host)
            arrays = numbers, (self.own.size, right.size), quarters, sides
            found.append((part, compiled_passes(plan, tile_size(device())), arrays))
        return found

    def _first(self) -> tuple[dict[str, LogSum], Rows]:
        """The log-sum-exps of this replica's anchors, and by id the sums of all rows."""
        own, nothing = self.own, LogSum.none_yet(self.own.rows["x"][:, 0])
        sums = dict.fromkeys(self.anchors, nothing)
        by_id = {name: tf.zeros_like(side) for name, side in own.rows.items()}
        for host in self.hosts:
            guest = self._guest(own.rows, host, [total.total for total in sums.values()])
            theirs = dict.fromkeys(self.anchors, nothing)
            for part, (first, _), arrays in self._visits(guest, host):
                left, right = part.block.left, part.block.right
                given = [sums[left], *([theirs[right]] if part.both else [])]
                sums[left], *beside = first(*arrays, given)
                if part.both:
                    theirs[right] = beside[0]
            if any(part.both for part in self.blocks):
                # (W, anchors, 2, L): numbers, no features.
                every = self.replicas.gather(tf.stack([tf.stack(v) for v in theirs.values()])[None])
                if host == self.replicas.rank:
                    for i, name in enumerate(theirs):
                        parts = LogSum(*(tf.concat([mine[None], every[:, i, j]], axis=0)
                                         for j, mine in enumerate(sums[name])))  # fmt: skip
                        sums[name] = parts.united()
            if self.weights is not None:
                by_id = {k: v + _sums_by_id(own, guest, k) for k, v in by_id.items()}
        return sums, {name: side[: self.replicas.rows] for name, side in by_id.items()}

    def _second(self, softmaxes: Softmaxes) -> Rows:
        """What the softmaxes pull, by name."""
        shown = dict(self.own.rows)
        for name, softmax in softmaxes.items():
            shown |= {f"{name} peak": softmax.peak[:, None], f"{name} log": softmax.log[:, None]}
        gradients = {k: tf.zeros_like(v) for k, v in (self.rows | self.own.rows).items()}
        for host in self.hosts:
            guest = self._guest(shown, host, list(gradients.values()))
            theirs = {name: tf.zeros_like(side) for name, side in self.own.rows.items()}
            for part, (_, second), arrays in self._visits(guest, host):
                left, right = part.block.left, part.block.right
                given = [_softmax(shown, left)]
                given += [_softmax(guest.rows, right)] if part.both else []
                in_left, *in_right = second(*arrays, given)
                gradients[left] += in_left
                for gradient in in_right:
                    (gradients if right == "bank" else theirs)[right] += gradient
            if len(self.hosts) > 1:
                gradients = self.ring.brought_home(gradients, theirs, host)
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


def _softmax(rows: Rows, name: str) -> Sides:
    """Peaks and logarithms, see `Softmax`, that are shown beside the rows; each (L,)."""
    return rows[f"{name} peak"][:, 0], rows[f"{name} log"][:, 0]


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
