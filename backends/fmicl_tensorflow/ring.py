"""The tiled form over replicas: shards of the batch are shown round, and none holds the union.

TensorFlow sends nothing from one replica to its neighbour. So there are W rounds: in each one
replica, the host, shows its rows to all others, by a sum over the replicas to which it alone adds
something. All work on their share of the pairs with these guests, and a second sum brings the
guests' gradients home. A replica receives as much as in a ring, and holds two shards at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from fmicl_core import Pairwise
from fmicl_core.forms import positive_tile_size, tile_size
from fmicl_core.pairs import Block
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.distributed import Replicas
from fmicl_tensorflow.ids import Numbers
from fmicl_tensorflow.tiled import Plan, compiled_sweep, device, differentiable_once, permuted


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


class Ring:
    """The rounds of one loss.

    Args:
        replicas: replicas that share the batch.
        numbers: numbers of the rows of all replicas, or None without ids.
    """

    def __init__(self, replicas: Replicas, numbers: Numbers | None) -> None:
        self.replicas = replicas
        self.longest = tf.reduce_max(replicas.sizes)
        self.union = None if numbers is None else numbers.union

    def padded(self, rows: tf.Tensor) -> tf.Tensor:
        """This replica's rows, or what belongs to them, filled up by zeros; (n, D) to (L, D)."""
        padded = tf.pad(rows, [[0, self.longest - tf.shape(rows)[0]], [0, 0]])
        return tf.ensure_shape(padded, [None, rows.shape[1]])

    def shard(self, rows: Rows, host: int) -> Shard:
        """The shard of a replica, of its filled rows."""
        size = self.replicas.sizes[host]
        if self.union is None:
            return Shard(rows, None, size)
        start = tf.reduce_sum(self.replicas.sizes[:host])
        numbers = tf.sort(self.union[start : start + size])
        last = tf.reduce_max(numbers)
        return Shard(rows, tf.pad(numbers, [[0, self.longest - size]], constant_values=last), size)

    def shown(self, own: Rows, host: int, after: list[tf.Tensor]) -> Rows:
        """The host's rows; not before `after`, since no replica is to hold the rows of many."""
        side_by_side = tf.concat(list(own.values()), axis=1)
        is_host = host == self.replicas.rank
        with tf.control_dependencies(after):
            given = tf.identity(side_by_side) if is_host else tf.zeros_like(side_by_side)
        guests = tf.split(self.replicas.sum(given), [v.shape[1] for v in own.values()], axis=1)
        return dict(zip(own, guests, strict=True))

    def brought_home(self, own: Rows, guests: Rows, host: int) -> Rows:
        """Gradients of this replica's rows; in its own round with what all found for its rows."""
        home = self.replicas.sum(tf.concat(list(guests.values()), axis=1))
        if host != self.replicas.rank:
            return own
        parts = tf.split(home, [v.shape[1] for v in guests.values()], axis=1)
        return own | {k: own[k] + part for k, part in zip(guests, parts, strict=True)}

    def quarters(self, block: Block, host: int) -> tf.Tensor:
        """Tiles of a block that are this replica's work in a round, see `TileGrid`.

        In a symmetric block two replicas meet twice, once as each other's guests. One of them takes
        the pairs of first halves and of second halves, the other one those of unlike halves.
        """
        rank = self.replicas.rank
        return tf.constant(0 if host == rank or not block.symmetric else 1 if rank < host else 2)


def ring_mean(
    rows: Rows,
    blocks: Sequence[Block],
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    replicas: Replicas,
    numbers: Numbers | None = None,
    weights: tf.Tensor | None = None,
    *,
    gradient: bool = True,
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
        gradient: whether the rows and the bias are no constants.
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

    def part_of(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable[[], list[tf.Tensor]]]:
        padded = {name: ring.padded(side) for name, side in zip(names, inputs, strict=False)}
        constant = inputs[-1] if bias is not None else None
        options = pairwise, constant, weights, gradient
        value, gradients, mass = _rounds(ring, padded, blocks, *options)
        found = [gradients[name][: replicas.rows] for name in names]
        found += [] if bias is None else [mass]
        return value, lambda: found

    inputs = [*sides, *([] if bias is None else [bias])]
    return differentiable_once(part_of, *inputs) if gradient else part_of(*inputs)[0]


def _rounds(
    ring: Ring,
    padded: Rows,
    blocks: Sequence[Block],
    pairwise: Pairwise,
    bias: tf.Tensor | None,
    weights: tf.Tensor | None,
    gradient: bool,
) -> tuple[tf.Tensor, Rows, tf.Tensor]:
    """The part of the mean, and its gradients in the rows and in the bias, 0 where not wanted."""
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
        pair = None
        if own.numbers is not None and guest.numbers is not None:
            pair = own.numbers, guest.numbers
        for block in blocks:
            plan = Plan(pairwise, here, which, tile, gradient)
            left, right = own.rows[block.left], guest.rows[block.right]
            sides = [left] if here and block.symmetric else [left, right]
            # Of two replicas the pairs (i, j) and (j, i) are the same, and visited once.
            share = block.share * (2.0 if not here and block.symmetric else 1.0)
            part, *found = compiled_sweep(plan)(
                pair, weights, sides, bias, (own.size, guest.size), divisor / share,
                None if here else ring.quarters(block, host),
            )  # fmt: skip
            value += part
            if not gradient:
                continue
            mass += 0.0 if bias is None else found.pop()
            gradients[block.left] += found[0]
            if len(sides) > 1:
                theirs[block.right] += found[1]
        if gradient:
            gradients = ring.brought_home(gradients, theirs, host)
    return value, gradients, mass
