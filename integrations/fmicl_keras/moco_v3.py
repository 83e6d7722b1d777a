"""MoCo v3 (Chen et al. 2021): predictions of either view against momentum keys of the other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fmicl_keras.layers import batch_norm, dense, network_input
from fmicl_keras.method import Loss, MomentumMethod
from fmicl_keras.vit import PATCHES
from fmicl_recipes.momentum import ema_schedule
from fmicl_recipes.settings import TrainSettings


class MoCoV3(MomentumMethod):
    """q = predictor(head(encoder(view))), k = key of the view; loss(q1, k2) + loss(q2, k1).

    There is no queue: negatives are the other keys of the batch. InfoNCE stands without the factor
    2 * temperature of Chen et al. (2021), which only scales the learning rate.

    Args:
        encoder: model from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from q, k (N, d) to a scalar, such as `FMICLLoss(negatives="cross")` of the
            Keras backend's library.
        augment: model from float images in [0, 1] to one random view of each.
        projection_hidden: width of the hidden layers of projector and predictor.
        projection_dim: width d of predictions and keys.
        ema: momentum of the key encoder at the first step, in [0, 1); a cosine raises it to 1.
        frozen_patches: whether the patch projection of a `vit` stays as it was drawn.
        steps: number of steps of the whole run, over which the momentum rises.

    Source: Chen et al. (2021), algorithm 1 and sections 4.2, 4.3.
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
        ema: float = TrainSettings.ema,
        frozen_patches: bool = True,
        steps: int,
    ) -> None:
        if frozen_patches:
            freeze_patches(encoder)
        head = mlp(feature_dim, projection_hidden, projection_hidden, projection_dim)
        super().__init__(encoder, head, loss, augment)
        self.predictor = mlp(projection_dim, projection_hidden, projection_dim)
        self.momenta = np.array(
            [ema_schedule(ema, step, steps) for step in range(steps)], self.compute_dtype
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


def mlp(inputs: int, *widths: int) -> keras.Model:
    """Linear layers of these widths, each with a batch norm and all but the last with a ReLU.

    The last norm has no scale and shift. Source: Chen et al. (2021), section 4.2, and its code.
    """
    x = features = network_input((inputs,))
    for i, width in enumerate(widths, start=1):
        last = i == len(widths)
        x = dense(width, use_bias=False, name=f"fc{i}")(x)
        x = batch_norm(x, center=not last, scale=not last, name=f"bn{i}")
        x = x if last else layers.ReLU()(x)
    return keras.Model(features, x)
