"""MoCo v3 (Chen et al. 2021): predictions of either view against momentum keys of the other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from fmicl_keras.heads import normed_mlp
from fmicl_keras.method import Loss, MomentumMethod
from fmicl_keras.vit import PATCHES
from fmicl_recipes.momentum import ema_schedule
from fmicl_recipes.settings import TrainSettings


class MoCoV3(MomentumMethod):
    """q = predictor(head(encoder(view))), k = key of the view; loss(q1, k2) + loss(q2, k1).

    There is no queue: negatives are the other keys of the batch. InfoNCE stands without the factor
    2 * temperature of Chen et al. (2021), which only scales the learning rate.

    Args:
        encoder: from images (N, H, W, C) to features (N, F); the patch projection of a `vit` stays
            as it was drawn if settings.patch_projection is "frozen".
        loss: from q, k (N, d) to a scalar, such as `FMICLLoss(negatives="cross")` of the Keras
            backend's library.
        augment: from float images in [0, 1] to one random view of each.
        settings: of the run, see `Method`.
        steps: of the whole run, over which the momentum of the key networks rises to 1.

    Source: Chen et al. (2021), algorithm 1 and sections 4.2, 4.3.
    """

    def __init__(
        self,
        encoder: keras.Model,
        loss: Loss,
        augment: keras.Model,
        settings: TrainSettings,
        steps: int,
    ) -> None:
        hidden, dim = settings.projection_hidden, settings.projection_dim
        if settings.patch_projection == "frozen":
            freeze_patches(encoder)
        head = normed_mlp(encoder.output_shape[-1], hidden, hidden, dim)
        super().__init__(encoder, head, loss, augment, settings)
        self.predictor = normed_mlp(dim, hidden, dim)
        self.momenta = np.array(
            [ema_schedule(settings.ema, step, steps) for step in range(steps)], np.float32
        )
        self.step = self.add_weight(
            (), "zeros", "int32", trainable=False, aggregation="only_first_replica"
        )

    def compare(self, v1: Any, v2: Any, training: bool) -> Any:
        """q1, k2, q2, k1, (N, 4, d)."""
        q1, q2 = (self.predict_of(view, training) for view in (v1, v2))
        if training:
            self.follow(ops.take(self.momenta, ops.minimum(self.step, len(self.momenta) - 1)))
            self.step.assign(self.step + 1)
        k1, k2 = (self.key(view, training) for view in (v1, v2))
        return ops.stack([q1, k2, q2, k1], axis=1)

    def contrast(self, features: Any, training: bool) -> Any:
        """loss(q1, k2) + loss(q2, k1)."""
        q1, k2, q2, k1 = (features[:, i] for i in range(4))
        k1, k2 = ops.stop_gradient(k1), ops.stop_gradient(k2)
        return self.loss_of(q1, k2) + self.loss_of(q2, k1)

    def predict_of(self, view: Any, training: bool) -> Any:
        """Predictions (N, d) of the other view's keys."""
        return self.predictor(self.query(view, training), training=training)


def freeze_patches(encoder: keras.Model) -> None:
    """Leave the patch projection of a `vit` as it was drawn."""
    for layer in encoder.layers:
        if layer.name == PATCHES:
            layer.trainable = False
