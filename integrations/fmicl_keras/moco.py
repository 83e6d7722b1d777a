"""MoCo v2 (He et al. 2020, Chen et al. 2020b): a momentum encoder and a queue of its keys."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fmicl_core.checks import check_choice
from fmicl_keras.backend import library
from fmicl_keras.layers import batch_norm, dense, has_batch_norm, network_input
from fmicl_keras.method import Loss, MomentumMethod
from fmicl_keras.replicas import gather, replica_count
from fmicl_recipes.choices import HEAD_NORMS
from fmicl_recipes.data.splits import NO_LABEL
from fmicl_recipes.draws import initial_queue, key_order
from fmicl_recipes.settings import TrainSettings


class MoCo(MomentumMethod):
    """Queries of one view against keys of the other; all negatives are keys of earlier steps.

    Where encoder or head have batch norms, a batch is encoded in `bn_splits` parts with statistics
    of their own, the keys in a random order: otherwise the statistics which a query shares with
    its key would give the key away (He et al. 2020, section 3.3).

    Args:
        encoder: model from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from queries and keys (N, d) and a bank of negatives (K, d) to a scalar, such
            as `FMICLLoss()` of the Keras backend's library; if supervised also from `ids` (N,) and
            `bank_ids` (K,).
        augment: model from float images in [0, 1] to one random view of each.
        projection_hidden: width of the hidden layer of the head.
        projection_dim: width d of queries and keys.
        queue_size: number K of keys in the queue.
        ema: momentum of the key encoder in [0, 1).
        bn_splits: number of parts of a batch.
        head_norm: "batch" or "none", see `mlp_head`.
        supervised: whether the loss gets labels, those of `fit(images, labels)`; keys with a
            query's label are then its positives, and those in the queue no negatives of it.
        seed: seed of the queue's first rows and of the order of the keys.
    """

    def __init__(
        self,
        encoder: keras.Model,
        feature_dim: int,
        loss: Loss,
        augment: keras.Model,
        *,
        projection_hidden: int = TrainSettings.projection_hidden,
        projection_dim: int = TrainSettings.projection_dim,
        queue_size: int = TrainSettings.queue_size,
        ema: float = TrainSettings.ema,
        bn_splits: int = TrainSettings.bn_splits,
        head_norm: str = TrainSettings.head_norm,
        supervised: bool = TrainSettings.supervised,
        seed: int = TrainSettings.seed,
    ) -> None:
        norm = check_choice("head_norm", head_norm, HEAD_NORMS) == "batch"
        head = mlp_head(feature_dim, projection_hidden, projection_dim, norm=norm)
        super().__init__(encoder, head, loss, augment)
        rows = initial_queue(queue_size, projection_dim, seed)
        self.queue = self.add_weight(
            rows.shape, trainable=False, aggregation="only_first_replica",
            initializer=lambda shape, dtype: ops.convert_to_tensor(rows, dtype),
        )  # fmt: skip
        if supervised:
            self.queue_labels = self.add_weight(
                (queue_size,), keras.initializers.Constant(NO_LABEL), "int32", trainable=False,
                aggregation="only_first_replica",
            )  # fmt: skip
        #: Slot of the oldest key, the next to be overwritten.
        self.pointer = self.add_weight(
            (), "zeros", "int32", trainable=False, aggregation="only_first_replica"
        )
        #: Draws the order of the keys where none is given.
        self.order = keras.random.SeedGenerator(1000 * seed + 999)  # not augmentation's
        self.seed, self.replicas = seed, replica_count()
        self.ema, self.splits = ema, bn_splits if has_batch_norm(self) else 1
        self.supervised = supervised

    def plan(self, step: int, count: int) -> dict[str, Any]:
        """The order in which the keys are encoded; each of several replicas draws its own."""
        if self.splits == 1 or self.replicas > 1:
            return {}
        return {"order": key_order(count, self.seed, step).astype(np.int32)}

    def compare(self, v1: Any, v2: Any, training: bool, order: Any = None) -> Any:
        """Queries of the first view and keys of the second, (N, 2, d)."""
        q = ops.concatenate([self.query(part, training) for part in self.parts(v1)])
        if training:
            self.follow(self.ema)
        return ops.stack([q, self.shuffled_keys(v2, training, order)], axis=1)

    def contrast(self, features: Any, training: bool, ids: Any = None) -> Any:
        """loss(q, k, bank=queue), with labels also of the queue; then the keys enter the queue."""
        q, k = features[:, 0], ops.stop_gradient(features[:, 1])
        # Copies, since the queue changes before the gradient is taken.
        bank = {"bank": ops.stop_gradient(ops.copy(self.queue))}
        if ids is not None:
            bank |= {"ids": ids, "bank_ids": ops.copy(self.queue_labels)}
        loss = self.loss_of(q, k, **bank)
        if training:
            self.enqueue(gather(k), None if ids is None else gather(ids))
        return loss

    def parts(self, view: Any) -> list[Any]:
        """The batch, or a replica's share of it, split into the parts that share statistics."""
        n, splits = ops.shape(view)[0], self.splits
        if splits > 1:  # the keys of a replica are shuffled among themselves, so two are needed
            splits = max(2, splits // replica_count())
        edges = [n * i // splits for i in range(splits + 1)]
        return [view[a:b] for a, b in pairwise(edges)]

    def shuffled_keys(self, view: Any, training: bool, order: Any = None) -> Any:
        """Keys (N, d), encoded in the order given, or a random one, and put back in place."""
        if self.splits == 1:
            return self.key(view, training)
        if order is None:
            order = keras.random.shuffle(ops.arange(ops.shape(view)[0]), seed=self.order)
        shuffled = self.parts(ops.take(view, order, axis=0))
        keys = ops.concatenate([self.key(part, training) for part in shuffled])
        return ops.take(keys, ops.argsort(order), axis=0)

    def enqueue(self, keys: Any, labels: Any = None) -> None:
        """Overwrite the oldest rows by the keys in order; of more keys than rows the last stay.

        Labels go where their keys go.
        """
        size = self.queue.shape[0]
        count = ops.shape(keys)[0]
        slots = (self.pointer + ops.arange(count, dtype="int32")) % size
        rows = library("ops").normalize_rows(keys)
        queue = ops.scatter_update(self.queue, slots[-size:, None], rows[-size:])
        self.queue.assign(queue)
        if labels is not None:
            last = ops.cast(labels[-size:], "int32")
            self.queue_labels.assign(
                ops.scatter_update(self.queue_labels, slots[-size:, None], last)
            )
        self.pointer.assign((self.pointer + count) % size)


def mlp_head(inputs: int, hidden: int, outputs: int, *, norm: bool) -> keras.Model:
    """Two layers (Chen et al. 2020b) and, with `norm`, a batch norm without scale and shift.

    The norm is ours. f-MICL takes a plain mean over the queue, whose keys stand still, and could
    push all queries away from it together, on to one point. The norm takes such a common shift out;
    InfoNCE, which does not see it, needs none.
    """
    features = network_input((inputs,))
    x = layers.ReLU()(dense(hidden, name="fc1")(features))
    x = dense(outputs, name="fc2")(x)
    if norm:
        x = batch_norm(x, center=False, scale=False, name="bn2")
    return keras.Model(features, x, name="head")
