"""MoCo v3 (Chen et al. 2021): predictions of either view against momentum keys of the other."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from fmicl_lightning.method import Contrast, Loss, MomentumMethod
from fmicl_lightning.vit import ViT
from fmicl_recipes.momentum import ema_schedule
from fmicl_recipes.settings import TrainSettings


class MoCoV3(MomentumMethod):
    """q = predictor(head(encoder(view))), k = key of the view; loss(q1, k2) + loss(q2, k1).

    There is no queue: negatives are the other keys of the batch. InfoNCE stands without the factor
    2 * temperature of Chen et al. (2021), which only scales the learning rate.

    Args:
        encoder: any module from images (N, C, H, W) to features (N, F); the patch projection of a
            `ViT` stays as it was drawn if settings.patch_projection is "frozen".
        feature_dim: F.
        loss: from q, k (N, d) to a scalar, such as `FMICLLoss(negatives="cross")`.
        augment: from float images in [0, 1] to one random view of each.
        settings: of the run, see `Method`.

    Source: Chen et al. (2021), algorithm 1 and sections 4.2, 4.3.
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        loss: Loss,
        augment: nn.Module,
        settings: TrainSettings,
    ) -> None:
        hidden, dim = settings.projection_hidden, settings.projection_dim
        projector = mlp(feature_dim, hidden, hidden, dim)
        super().__init__(encoder, projector, loss, augment, settings)
        self.predictor = mlp(dim, hidden, dim)
        if isinstance(encoder, ViT) and settings.patch_projection == "frozen":
            encoder.patches.requires_grad_(False)

    def contrast(self, v1: torch.Tensor, v2: torch.Tensor) -> Contrast:
        """loss(q1, k2) + loss(q2, k1)."""
        q1, q2 = self.predictor(self.query(v1)), self.predictor(self.query(v2))
        with torch.no_grad():
            self.follow(ema_schedule(self.settings.ema, self.global_step, self.steps))
            k1, k2 = self.key(v1), self.key(v2)
        q1, q2, k1, k2 = map(self.gather, (q1, q2, k1, k2))
        return self.loss(q1, k2) + self.loss(q2, k1), q1, k2


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers, each with a batch norm and all but the last with a ReLU.

    The last norm has no scale and shift. Source: Chen et al. (2021), section 4.2, and its code.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(widths[-1], affine=False))
