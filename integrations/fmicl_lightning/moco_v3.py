"""MoCo v3 (Chen et al. 2021): predictions of either view against momentum keys of the other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from fmicl_lightning.method import Contrast, Loss, MomentumMethod
from fmicl_lightning.shards import widened
from fmicl_lightning.vit import ViT
from fmicl_recipes.momentum import ema_schedule
from fmicl_recipes.settings import TrainSettings


class MoCoV3(MomentumMethod):
    """q = predictor(head(encoder(view))), k = key of the view; loss(q1, k2) + loss(q2, k1).

    There is no queue: negatives are the other keys of the batch. InfoNCE stands without the factor
    2 * temperature of Chen et al. (2021), which only scales the learning rate.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F).
        feature_dim: width F of the features.
        loss: function from q, k (N, d) to a scalar, such as `FMICLLoss(negatives="cross")`.
        augment: module from float images in [0, 1] to one random view of each.
        projection_hidden: width of the hidden layers of projector and predictor.
        projection_dim: width d of predictions and keys.
        ema: momentum of the key encoder at the first step, in [0, 1); a cosine raises it to 1.
        frozen_patches: whether the patch projection of a `ViT` stays as it was drawn.
        optimizer: as for `Method`.
        lr: as for `Method`.
        momentum: as for `Method`.
        weight_decay: as for `Method`.
        warmup_epochs: as for `Method`.
        seed: as for `Method`.

    Source: Chen et al. (2021), algorithm 1 and sections 4.2, 4.3.
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
        ema: float = TrainSettings.ema,
        frozen_patches: bool = True,
        optimizer: str = TrainSettings.optimizer,
        lr: float = TrainSettings.lr,
        momentum: float = TrainSettings.momentum,
        weight_decay: float = TrainSettings.weight_decay,
        warmup_epochs: int = TrainSettings.warmup_epochs,
        seed: int = TrainSettings.seed,
    ) -> None:
        head = mlp(feature_dim, projection_hidden, projection_hidden, projection_dim)
        super().__init__(
            encoder, head, loss, augment, optimizer=optimizer, lr=lr, momentum=momentum,
            weight_decay=weight_decay, warmup_epochs=warmup_epochs, seed=seed,
        )  # fmt: skip
        self.predictor = mlp(projection_dim, projection_hidden, projection_dim)
        self.ema = ema
        if isinstance(encoder, ViT) and frozen_patches:
            encoder.patches.requires_grad_(False)

    def plan(self, count: int) -> dict[str, Any]:
        """The momentum of the key encoder, which a cosine raises to 1."""
        return {"momentum": ema_schedule(self.ema, self.global_step, self.steps)}

    def contrast(
        self, v1: torch.Tensor, v2: torch.Tensor, *, momentum: float | torch.Tensor | None = None
    ) -> Contrast:
        """loss(q1, k2) + loss(q2, k1); the momentum is by default that of the first step."""
        q1, q2 = self.predictor(self.query(v1)), self.predictor(self.query(v2))
        with torch.no_grad():
            self.follow(self.ema if momentum is None else momentum)
            k1, k2 = self.key(v1), self.key(v2)
        q1, q2, k1, k2 = map(widened, (q1, q2, k1, k2))
        return self.loss_of(q1, k2) + self.loss_of(q2, k1), q1, k2


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers, each with a batch norm and all but the last with a ReLU.

    The last norm has no scale and shift. Source: Chen et al. (2021), section 4.2, and its code.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(widths[-1], affine=False))
