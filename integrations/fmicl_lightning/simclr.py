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
        feature_dim: F.
        loss: from projections x, y (N, d) to a scalar, such as `FMICLLoss(negatives="all")`.
        augment: from float images in [0, 1] to one random view of each.
        settings: of the run, see `Method`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        loss: Loss,
        augment: nn.Module,
        settings: TrainSettings,
    ) -> None:
        head = projection_head(feature_dim, settings.projection_hidden, settings.projection_dim)
        super().__init__(encoder, head, loss, augment, settings)

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
