"""MoCo v2 (He et al. 2020, Chen et al. 2020b): a momentum encoder and a queue of its keys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
from keras import ops

from fmicl_keras.encoders import has_batch_norm
from fmicl_keras.heads import mlp
from fmicl_keras.method import Loss, MomentumMethod
from fmicl_keras.native import library
from fmicl_keras.replicas import gather, replica_count
from fmicl_recipes.draws import initial_queue
from fmicl_recipes.settings import TrainSettings


class MoCo(MomentumMethod):
    """Queries of one view against keys of the other; all negatives are keys of earlier steps.

    Where encoder or head have batch norms, a batch is encoded in `settings.bn_splits` parts with
    statistics of their own, the keys in a random order: otherwise the statistics which a query
    shares with its key would give the key away (He et al. 2020, section 3.3).

    Args:
        encoder: from images (N, H, W, C) to features (N, F).
        loss: from queries and keys (N, d) and a bank of negatives (K, d) to a scalar, such as
            `FMICLLoss()` of the Keras backend's library.
        augment: from float images in [0, 1] to one random view of each.
        settings: of the run, see `Method`.
    """

    def __init__(
        self, encoder: keras.Model, loss: Loss, augment: keras.Model, settings: TrainSettings
    ) -> None:
        hidden, dim = settings.projection_hidden, settings.projection_dim
        head = mlp(encoder.output_shape[-1], hidden, dim, norm=settings.head_norm == "batch")
        super().__init__(encoder, head, loss, augment, settings)
        self.queue = self.add_weight(
            (settings.queue_size, dim), trainable=False, aggregation="only_first_replica",
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                initial_queue(*shape, settings.seed), dtype
            ),
        )  # fmt: skip
        #: Slot of the oldest key, the next to be overwritten.
        self.pointer = self.add_weight(
            (), "zeros", "int32", trainable=False, aggregation="only_first_replica"
        )
        self.order = keras.random.SeedGenerator(1000 * settings.seed + 999)  # not augmentation's
        self.splits = settings.bn_splits if has_batch_norm(self) else 1

    def compare(self, v1: Any, v2: Any, training: bool) -> Any:
        """Queries of the first view and keys of the second, (N, 2, d)."""
        q = ops.concatenate([self.query(part, training) for part in self.parts(v1)])
        if training:
            self.follow(self.settings.ema)
        return ops.stack([q, self.shuffled_keys(v2, training)], axis=1)

    def contrast(self, features: Any, training: bool) -> Any:
        """loss(q, k, bank=queue), then the keys enter the queue."""
        q, k = features[:, 0], ops.stop_gradient(features[:, 1])
        # A copy, since the queue changes before the gradient is taken.
        loss = self.loss_of(q, k, bank=ops.stop_gradient(ops.copy(self.queue)))
        if training:
            self.enqueue(gather(k))
        return loss

    def parts(self, view: Any) -> list[Any]:
        """The batch, or a replica's share of it, in the parts that share statistics."""
        n, splits = ops.shape(view)[0], self.splits
        if splits > 1:  # the keys of a replica are shuffled among themselves, so two are needed
            splits = max(2, splits // replica_count())
        edges = [n * i // splits for i in range(splits + 1)]
        return [view[a:b] for a, b in pairwise(edges)]

    def shuffled_keys(self, view: Any, training: bool) -> Any:
        """Keys (N, d), encoded in a random order and put back in place."""
        if self.splits == 1:
            return self.key(view, training)
        order = keras.random.shuffle(ops.arange(ops.shape(view)[0]), seed=self.order)
        shuffled = self.parts(ops.take(view, order, axis=0))
        keys = ops.concatenate([self.key(part, training) for part in shuffled])
        return ops.take(keys, ops.argsort(order), axis=0)

    def enqueue(self, keys: Any) -> None:
        """Overwrite the oldest rows by the keys in order; of more keys than rows the last stay."""
        size = self.queue.shape[0]
        count = ops.shape(keys)[0]
        slots = (self.pointer + ops.arange(count, dtype="int32")) % size
        rows = library("ops").normalize_rows(keys)
        queue = ops.scatter_update(self.queue, slots[-size:, None], rows[-size:])
        self.queue.assign(queue)
        self.pointer.assign((self.pointer + count) % size)
