"""SimCLR (Chen et al. 2020): two views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

import torch
from torch import nn

from fmicl_lightning.method import Contrast, Loss, Method
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """Both views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")`.
        augment: module from float images in [0, 1] to one random view of each.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
        optimizer, lr, momentum, weight_decay, warmup_epochs, seed: arguments of `Method`.
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

    def contrast(self, v1: torch.Tensor, v2: torch.Tensor) -> Contrast:
        """loss(x, y) of the projections of the two views."""
        x, y = map(self.gather, self.query(torch.cat([v1, v2])).chunk(2))
        return self.loss(x, y), x, y


def projection_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three layers, F to d, batch norm after each but the last (Lu et al. 2023)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip
