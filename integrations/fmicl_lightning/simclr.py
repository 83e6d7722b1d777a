"""SimCLR (Chen et al. 2020): views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

import torch
from torch import nn

from fmicl_core.checks import check_at_least
from fmicl_lightning.method import Contrast, Loss, Method
from fmicl_lightning.shards import widened
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """All views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")`; of more than two views from x (V N, d) and `ids` (V N,).
        augment: module from float images in [0, 1] to one random view of each.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
        views: number V of random views of every image; each pair of them is positive.
        supervised: whether batches hold images and labels, and the loss gets the labels as `ids`.
        optimizer: as for `Method`.
        lr: as for `Method`.
        momentum: as for `Method`.
        weight_decay: as for `Method`.
        warmup_epochs: as for `Method`.
        seed: as for `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        loss: Loss,
        augment: nn.Module,
        *,
        projection_hidden: int = TrainSettings.projection_hidden,
        projection_dim: int = TrainSettings.projection_dim,
        views: int = TrainSettings.views,
        supervised: bool = TrainSettings.supervised,
        optimizer: str = TrainSettings.optimizer,
        lr: float = TrainSettings.lr,
        momentum: float = TrainSettings.momentum,
        weight_decay: float = TrainSettings.weight_decay,
        warmup_epochs: int = TrainSettings.warmup_epochs,
        seed: int = TrainSettings.seed,
    ) -> None:
        head = projection_head(feature_dim, projection_hidden, projection_dim)
        super().__init__(
            encoder, head, loss, augment, optimizer=optimizer, lr=lr, momentum=momentum,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        self.view_count, self.supervised = check_at_least("views", views, 2), supervised

    def contrast(self, *views: torch.Tensor, ids: torch.Tensor | None = None) -> Contrast:
        """loss(x, y) of the projections of two views, and with labels loss(x, y, ids=labels).

        More views are one array z, view after view: loss(z, ids=image numbers or labels).
        """
        projections = widened(self.query(torch.cat(views)))
        x, y, *more = projections.chunk(len(views))
        if not more:
            return self.loss_of(x, y, ids=ids), x, y
        if ids is None:  # numbers that no other device gives to its images
            ids = self.rank + self.world * torch.arange(len(x), device=x.device)
        return self.loss_of(projections, ids=ids.repeat(len(views))), x, y


def projection_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three layers, F to d, batch norm after each but the last (Lu et al. 2023)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip
