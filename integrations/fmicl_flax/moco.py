"""MoCo v2 (He et al. 2020, Chen et al. 2020b): a momentum encoder and a queue of its keys."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmicl_core.checks import check_choice
from fmicl_flax.augment import Augment
from fmicl_flax.layers import batch_norm, linear
from fmicl_flax.method import Contrast, Loss, MomentumMethod
from fmicl_flax.split_batch_norm import has_batch_norm, in_parts
from fmicl_jax.ops import normalize_rows
from fmicl_recipes.choices import HEAD_NORMS
from fmicl_recipes.data.splits import NO_LABEL
from fmicl_recipes.draws import initial_queue, key_order
from fmicl_recipes.methods import labels_for
from fmicl_recipes.settings import TrainSettings


class Queue(nnx.Variable):
    """A variable of the queue: the keys of earlier steps, their labels, the slot of the oldest."""


class MoCo(MomentumMethod):
    """Queries of one view against keys of the other; all negatives are keys of earlier steps.

    Where encoder or head have batch norms, a batch is encoded in `bn_splits` parts with statistics
    of their own, the keys in a random order: otherwise the statistics which a query shares with
    its key would give the key away (He et al. 2020, section 3.3).

    Args:
        encoder: any module from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from queries and keys (N, d) and a bank of negatives (K, d) to a scalar, such
            as `fmicl_jax.FMICLLoss()`; if supervised also from `ids` (N,) and `bank_ids` (K,).
        augment: function from a key and a float image in [0, 1] to one random view of it.
        projection_hidden: width of the hidden layer of the head.
        projection_dim: width d of queries and keys.
        queue_size: number K of keys in the queue.
        ema: momentum of the key encoder in [0, 1).
        bn_splits: number of parts of a batch.
        head_norm: "batch" or "none", see `mlp_head`.
        supervised: whether the loss gets labels; keys with a query's label are then its positives,
            and those in the queue no negatives of it.
        seed: seed of the queue's first rows and of the order of the keys.
        dtype: dtype of head and loss, float32 or float64.
        rngs: random numbers for the weights of the head.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        feature_dim: int,
        loss: Loss,
        augment: Augment,
        *,
        projection_hidden: int = TrainSettings.projection_hidden,
        projection_dim: int = TrainSettings.projection_dim,
        queue_size: int = TrainSettings.queue_size,
        ema: float = TrainSettings.ema,
        bn_splits: int = TrainSettings.bn_splits,
        head_norm: str = TrainSettings.head_norm,
        supervised: bool = TrainSettings.supervised,
        seed: int = TrainSettings.seed,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        norm = check_choice("head_norm", head_norm, HEAD_NORMS) == "batch"
        head = mlp_head(
            feature_dim, projection_hidden, projection_dim, rngs, norm=norm, dtype=dtype
        )
        super().__init__(encoder, head, loss, augment, dtype)
        self.queue = Queue(jnp.asarray(initial_queue(queue_size, projection_dim, seed), dtype))
        if supervised:
            self.queue_labels = Queue(jnp.full(queue_size, NO_LABEL, jnp.int32))
        self.oldest = Queue(jnp.zeros((), jnp.int32))
        self.ema, self.supervised, self.seed = ema, supervised, seed
        self.parts = bn_splits if has_batch_norm(self) else 1

    def plan(self, step: int, steps: int, count: int) -> dict[str, Any]:
        """The order in which the keys are encoded."""
        return (
            {"order": key_order(count, self.seed, step).astype(np.int32)} if self.parts > 1 else {}
        )

    def contrast(
        self,
        v1: jax.Array,
        v2: jax.Array,
        order: jax.Array | None = None,
        ids: jax.Array | None = None,
    ) -> Contrast:
        """loss(q, k, bank=queue), with labels also of the queue; then the keys enter the queue."""
        ids = labels_for(self.supervised, ids)
        q = in_parts(self.encoder, self.head, v1, self.parts, self.dtype)
        self.follow(self.ema)
        k = jax.lax.stop_gradient(self.keys(v2, order))
        bank = {"bank": self.queue[...]}
        if ids is not None:
            bank |= {"ids": ids, "bank_ids": self.queue_labels[...]}
        loss = self.loss(q, k, **bank)
        self.enqueue(k, ids)
        return loss, q, k

    def keys(self, view: jax.Array, order: jax.Array | None) -> jax.Array:
        """Keys (N, d), encoded in the order given and put back in place."""
        networks = self.key_encoder, self.key_head
        if order is None:
            return in_parts(*networks, view, self.parts, self.dtype)
        shuffled = in_parts(*networks, view[order], self.parts, self.dtype)
        return shuffled[jnp.argsort(order)]

    def enqueue(self, keys: jax.Array, labels: jax.Array | None = None) -> None:
        """Overwrite the oldest rows by the keys in order; of more keys than rows the last stay.

        Labels go where their keys go.
        """
        size = len(self.queue)
        slots = (self.oldest[...] + jnp.arange(len(keys))) % size
        self.queue[...] = self.queue[...].at[slots[-size:]].set(normalize_rows(keys)[-size:])
        if labels is not None:
            self.queue_labels[...] = self.queue_labels[...].at[slots[-size:]].set(labels[-size:])
        self.oldest[...] = (self.oldest[...] + len(keys)) % size


def mlp_head(
    inputs: int,
    hidden: int,
    outputs: int,
    rngs: nnx.Rngs,
    *,
    norm: bool = True,
    dtype: Any = jnp.float32,
) -> nnx.Sequential:
    """Two layers (Chen et al. 2020b) and, with `norm`, a batch norm without scale and shift.

    The norm is ours. f-MICL takes a plain mean over the queue, whose keys stand still, and could
    push all queries away from it together, on to one point. The norm takes such a common shift out;
    InfoNCE, which does not see it, needs none.
    """
    first, last = (
        linear(a, b, rngs, dtype=dtype) for a, b in ((inputs, hidden), (hidden, outputs))
    )
    end = [batch_norm(outputs, rngs, dtype=dtype, affine=False)] * norm
    return nnx.Sequential(first, nnx.relu, last, *end)
