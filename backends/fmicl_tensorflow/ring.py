"""The tiled form over replicas: shards of the batch are shown round, and none holds the union.

TensorFlow sends nothing from one replica to its neighbour. So there are W rounds: in each one
replica, the host, shows its rows to all others, by a sum over the replicas to which it alone adds
something. All work on their share of the pairs with these guests, and a second sum brings the
guests' gradients home. A replica receives as much as in a ring, and holds two shards at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_core.forms import positive_tile_size, tile_size
from fmicl_core.pairs import Block
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.distributed import Replicas
from fmicl_tensorflow.ids import Numbers
from fmicl_tensorflow.tiled import Plan, compiled_sweep, device, permuted, times_once


class Shard(NamedTuple):
    """The rows of one replica, filled up to those of the longest shard.

    Args:
        rows: features by name, (L, D).
        numbers: numbers of the rows, (L,), in order; None without ids.
        size: number of rows that count.
    """

    rows: Rows
    numbers: tf.Tensor | None
    size: tf.Tensor

    def part(self, place: slice) -> Shard:
        """The rows of a slice."""
        numbers = None if self.numbers is None else self.numbers[place]
        size = tf.clip_by_value(self.size - place.start, 0, place.stop - place.start)
        return Shard({name: side[place] for name, side in self.rows.items()}, numbers, size)


class Ring:
    """The rounds of one loss.

    Args:
        replicas: replicas that share the batch.
        numbers: numbers of the rows of all replicas, or None without ids.
    """

    def __init__(self, replicas: Replicas, numbers: Numbers | None) -> None:
        self.replicas = replicas
        self.sizes = tf.unstack(replicas.sizes, replicas.count)
        self.half = (tf.reduce_max(replicas.sizes) + 1) // 2
        self.whole = slice(0, 2 * self.half)
        self.union = None if numbers is None else numbers.union

    def padded(self, rows: tf.Tensor) -> tf.Tensor:
        """This replica's rows, or what belongs to them, filled up by zeros; (n, D) to (L, D)."""
        padded = tf.pad(rows, [[0, 2 * self.half - tf.shape(rows)[0]], [0, 0]])
        return tf.ensure_shape(padded, [None, rows.shape[1]])

    def shard(self, rows: Rows, host: int) -> Shard:
        """The shard of a replica, of its filled rows."""
        if self.union is None:
            return Shard(rows, None, self.sizes[host])
        start = sum(self.sizes[:host])
        numbers = tf.sort(self.union[start : start + self.sizes[host]])
        place = tf.minimum(tf.range(2 * self.half), self.sizes[host] - 1)
        return Shard(rows, tf.gather(numbers, place), self.sizes[host])

    def shown(self, own: Rows, host: int, after: list[tf.Tensor]) -> Rows:
        """The host's rows; not before `after`, since no replica is to hold the rows of many."""
        side_by_side = tf.concat(list(own.values()), axis=1)
        is_host = host == self.replicas.rank
        with tf.control_dependencies(after):
            given = tf.identity(side_by_side) if is_host else tf.zeros_like(side_by_side)
        guests = tf.split(self.replicas.sum(given), [v.shape[1] for v in own.values()], axis=1)
        return dict(zip(own, guests, strict=True))

    def visits(self, block: Block, host: int) -> Iterator[tuple[slice, slice]]:
        """Rows of this replica and of the guests whose pairs in a block are this replica's work.

        In a symmetric block two replicas meet twice, once as each other's guests. One of them takes
        the pairs of first halves and of second halves, the other one those of unlike halves.
        """
        rank, half = self.replicas.rank, self.half
        if host == rank or not block.symmetric:
            return iter([(self.whole, self.whole)])
        halves = slice(0, half), slice(half, 2 * half)
        return zip(halves, halves if rank < host else halves[::-1], strict=True)

    def placed(self, part: tf.Tensor, place: slice, elsewhere: Any = 0) -> tf.Tensor:
        """What a slice of the rows has, such as gradients, as that of all rows."""
        around = [[place.start, 2 * self.half - place.stop], *[[0, 0]] * (part.shape.rank - 1)]
        return tf.pad(part, around, constant_values=elsewhere)


def ring_mean(
    rows: Rows,
    blocks: Sequence[Block],
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    replicas: Replicas,
    numbers: Numbers | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """This replica's part of the mean over blocks of the union; the sum over replicas is the mean.

    Once differentiable; the gradient in this replica's rows is that of the whole mean.

    Args:
        rows: features of this replica by name.
        blocks: blocks of pairs, of this replica's rows.
        pairwise, bias: arguments of `dense_block_mean`.
        replicas: replicas that share the batch.
        numbers: numbers of the rows; None where all are different.
        weights: (n,) weights of this replica's anchors, for positives; None for negatives.
    """
    ring = Ring(replicas, numbers)
    names = sorted({name for block in blocks for name in (block.left, block.right)})
    sides = [rows[name] for name in names]
    if numbers is not None:
        order = tf.argsort(numbers.own, stable=True)
        sides = [permuted(side, order) for side in sides]
        weights = None if weights is None else tf.gather(weights, order)
    if weights is not None:
        weights = ring.padded(weights[:, None])[:, 0]

    @tf.custom_gradient
    def part_of(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        fixed = [tf.stop_gradient(part) for part in inputs]
        padded = {name: ring.padded(side) for name, side in zip(names, fixed, strict=False)}
        constant = fixed[-1] if bias is not None else None
        value, gradients, mass = _rounds(ring, padded, blocks, pairwise, constant, weights)
        found = [gradients[name][: replicas.rows] for name in names]
        found += [] if bias is None else [mass]

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            pairs = zip(found, inputs, strict=True)
            return [times_once(upstream, gradient, part) for gradient, part in pairs]

        return value, backward

    return part_of(*sides) if bias is None else part_of(*sides, bias)


def _rounds(
    ring: Ring,
    padded: Rows,
    blocks: Sequence[Block],
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    weights: tf.Tensor | None,
) -> tuple[tf.Tensor, Rows, tf.Tensor]:
    """The part of the mean, and its gradients in the rows and in the bias."""
    replicas = ring.replicas
    own = ring.shard(padded, replicas.rank)
    which = "equal" if weights is not None else "every" if own.numbers is None else "different"
    tile = (tile_size if weights is None else positive_tile_size)(device())
    gradients = {name: tf.zeros_like(side) for name, side in padded.items()}
    dtype = next(iter(padded.values())).dtype
    total = tf.cast(replicas.total, dtype)
    divisor = total if weights is not None else total * (total - 1.0)
    value = mass = tf.zeros((), dtype)
    for host in range(replicas.count):
        here = host == replicas.rank
        guest = ring.shard(ring.shown(padded, host, [value]), host)
        theirs = {name: tf.zeros_like(side) for name, side in padded.items()}
        for block in blocks:
            plan = Plan(pairwise, here, which, tile)
            # Of two replicas the pairs (i, j) and (j, i) are the same, and visited once.
            share = block.share * (1.0 if here or not block.symmetric else 2.0)
            for mine, other in ring.visits(block, host):
                left, right = own.part(mine), guest.part(other)
                sides = [left.rows[block.left], right.rows[block.right]]
                given = sides[:1] if here and block.symmetric else sides
                part, *found = compiled_sweep(plan)(
                    None if left.numbers is None else (left.numbers, right.numbers),
                    None if weights is None else weights[mine],
                    given, bias, (left.size, right.size), divisor / share,
                )  # fmt: skip
                value += part
                mass += 0.0 if bias is None else found.pop()
                gradients[block.left] += ring.placed(found[0], mine)
                if len(given) > 1:
                    theirs[block.right] += ring.placed(found[1], other)
        home = ring.replicas.sum(list(theirs.values()))
        if here:
            pairs = zip(gradients.items(), home, strict=True)
            gradients = {name: mine + back for (name, mine), back in pairs}
    return value, gradients, mass
