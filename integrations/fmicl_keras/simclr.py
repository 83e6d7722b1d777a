"""SimCLR (Chen et al. 2020): two views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fmicl_keras.method import Loss, Method
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """Both views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: model from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")` of the Keras backend's library.
        augment: model from float images in [0, 1] to one random view of each.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
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
    ) -> None:
        head = projection_head(projection_hidden, projection_dim)
        head.build((None, feature_dim))
        super().__init__(encoder, head, loss, augment)

    def compare(self, v1: Any, v2: Any, training: bool) -> Any:
        """Projections of the two views, (N, 2, d)."""
        # Side by side and in one batch, as batch norm should see them: x_0, y_0, x_1, y_1, ...
        both = ops.reshape(ops.stack([v1, v2], axis=1), (-1, *v1.shape[1:]))
        x = self.query(both, training)
        return ops.reshape(x, (-1, 2, x.shape[-1]))

    def contrast(self, features: Any, training: bool) -> Any:
        """loss(x, y)."""
        return self.loss_of(features[:, 0], features[:, 1])


def projection_head(hidden: int = 512, dim: int = 512) -> keras.Sequential:
    """Three layers to projections (batch, dim), batch norm after all but the last (Lu et al. 2023).

    Args:
        hidden: width of the first two layers.
        dim: width of the projections.
    """
    layers = []
    for _ in range(2):
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        layers += [keras.layers.Dense(hidden, use_bias=False), norm, keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(dim)], name="projection_head")
