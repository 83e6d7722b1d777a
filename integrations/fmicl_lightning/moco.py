"""MoCo v2 (He et al. 2020, Chen et al. 2020b): a momentum encoder and a queue of its keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fmicl_core.checks import check_choice
from fmicl_lightning.method import Contrast, Loss, MomentumMethod
from fmicl_lightning.shards import widened
from fmicl_recipes.choices import HEAD_NORMS
from fmicl_recipes.data.splits import NO_LABEL
from fmicl_recipes.draws import initial_queue, key_order
from fmicl_recipes.settings import TrainSettings
from fmicl_torch.ops import normalize_rows

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class MoCo(MomentumMethod):
    """Queries of one view against keys of the other; all negatives are keys of earlier steps.

    Where encoder or head have batch norms, a batch is encoded in `bn_splits` parts with statistics
    of their own, the keys in a random order: otherwise the statistics which a query shares with
    its key would give the key away (He et al. 2020, section 3.3).

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        feature_dim: width F of the features.
        loss: function from queries and keys (N, d) and a bank of negatives (K, d) to a scalar, such
            as `fmicl_torch.FMICLLoss()`; if supervised also from `ids` (N,) and `bank_ids` (K,).
        augment: module from float images in [0, 1] to one random view of each.
        projection_hidden: width of the hidden layer of the head.
        projection_dim: width d of queries and keys.
        queue_size: number K of keys in the queue.
        ema: momentum of the key encoder in [0, 1).
        bn_splits: number of parts of a batch.
        head_norm: "batch" or "none", see `mlp_head`.
        supervised: whether batches hold images and labels; keys with a query's label are then its
            positives, and those in the queue no negatives of it.
        optimizer: as for `Method`.
        lr: as for `Method`.
        momentum: as for `Method`.
        weight_decay: as for `Method`.
        warmup_epochs: as for `Method`.
        seed: seed of the random views, of the queue's first rows and of the order of the keys.
    """

    queue: torch.Tensor
    queue_labels: torch.Tensor
    pointer: torch.Tensor

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        loss: Loss,
        augment: nn.Module,
        *,
        projection_hidden: int = TrainSettings.projection_hidden,
        projection_dim: int = TrainSettings.projection_dim,
        queue_size: int = TrainSettings.queue_size,
        ema: float = TrainSettings.ema,
        bn_splits: int = TrainSettings.bn_splits,
        head_norm: str = TrainSettings.head_norm,
        supervised: bool = TrainSettings.supervised,
        optimizer: str = TrainSettings.optimizer,
        lr: float = TrainSettings.lr,
        momentum: float = TrainSettings.momentum,
        weight_decay: float = TrainSettings.weight_decay,
        warmup_epochs: int = TrainSettings.warmup_epochs,
        seed: int = TrainSettings.seed,
    ) -> None:
        norm = check_choice("head_norm", head_norm, HEAD_NORMS) == "batch"
        head = mlp_head(feature_dim, projection_hidden, projection_dim, norm=norm)
        super().__init__(
            encoder, head, loss, augment, optimizer=optimizer, lr=lr, momentum=momentum,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        self.ema, self.bn_splits, self.supervised = ema, bn_splits, supervised
        queue = initial_queue(queue_size, projection_dim, seed)
        self.register_buffer("queue", torch.from_numpy(queue))
        if supervised:
            self.register_buffer("queue_labels", torch.full((queue_size,), NO_LABEL))
        #: Slot of the oldest key, the next to be overwritten.
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.has_batch_norm = any(isinstance(m, BATCH_NORMS) for m in self.modules())

    def plan(self, count: int) -> dict[str, Any]:
        """The order in which the keys of all devices are encoded."""
        if not self.has_batch_norm:
            return {}
        order = torch.from_numpy(key_order(count * self.world, self.seed, self.global_step))
        return {"order": order.to(self.device, non_blocking=True)}

    def contrast(
        self,
        v1: torch.Tensor,
        v2: torch.Tensor,
        *,
        order: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
    ) -> Contrast:
        """loss(q, k, bank=queue), with labels also of the queue; then the keys enter the queue."""
        q = widened(torch.cat([self.query(part) for part in self.parts(v1)]))
        with torch.no_grad():
            self.follow(self.ema)
            keys = self.keys(v2, order)
        k = keys.chunk(self.world)[self.rank]
        bank = {"bank": self.queue.clone()}  # the queue changes before the gradient
        if ids is not None:
            bank["bank_ids"] = self.queue_labels.clone()
        loss = self.loss_of(q, k, ids=ids, **bank)
        self.enqueue(keys, None if ids is None else self.gather(ids))
        return loss, q, k

    def parts(self, view: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """This device's share of the batch, split into the parts that share batch statistics."""
        splits = max(1, self.bn_splits // self.world)
        return view.tensor_split(splits) if self.has_batch_norm else (view,)

    def keys(self, view: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
        """Keys (N, d) of all devices, encoded in the order given and put back in place."""
        mine = view
        if order is not None:
            mine = self.gather(view)[order].chunk(self.world)[self.rank]
        keys = self.gather(widened(torch.cat([self.key(part) for part in self.parts(mine)])))
        return keys if order is None else keys[order.argsort()]

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """Overwrite the oldest rows by the keys in order; of more keys than rows the last stay.

        Labels go where their keys go. Keys of another dtype are normalised in the wider one and
        kept in the queue's.
        """
        size = len(self.queue)
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        wide = keys.to(torch.promote_types(keys.dtype, self.queue.dtype))
        self.queue[slots[-size:]] = normalize_rows(wide)[-size:].to(self.queue.dtype)
        if labels is not None:
            self.queue_labels[slots[-size:]] = labels[-size:].to(self.queue_labels.dtype)
        self.pointer.add_(len(keys)).remainder_(size)


def mlp_head(inputs: int, hidden: int, outputs: int, *, norm: bool) -> nn.Sequential:
    """Two layers (Chen et al. 2020b) and, with `norm`, a batch norm without scale and shift.

    The norm is ours. f-MICL takes a plain mean over the queue, whose keys stand still, and could
    push all queries away from it together, on to one point. The norm takes such a common shift out;
    InfoNCE, which does not see it, needs none.
    """
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers, *[nn.BatchNorm1d(outputs, affine=False)] * norm)
