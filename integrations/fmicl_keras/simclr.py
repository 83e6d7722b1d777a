"""SimCLR (Chen et al. 2020): views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fmicl_core.checks import check_at_least
from fmicl_keras.layers import BatchNorm
from fmicl_keras.method import Loss, Method
from fmicl_keras.replicas import numbers
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """All views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: model from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")` of the Keras backend's library; of more than two views from
            x (N V, d) and `ids` (N V,).
        augment: model from float images in [0, 1] to one random view of each.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
        views: number V of random views of every image; each pair of them is positive.
        supervised: whether the loss gets labels, those of `fit(images, labels)`, as `ids`.
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
        views: int = TrainSettings.views,
        supervised: bool = TrainSettings.supervised,
    ) -> None:
        head = projection_head(projection_hidden, projection_dim)
        head.build((None, feature_dim))
        super().__init__(encoder, head, loss, augment)
        self.view_count, self.supervised = check_at_least("views", views, 2), supervised

    def compare(self, *views: Any, training: bool) -> Any:
        """Projections of the views, (N, V, d)."""
        # Side by side and in one batch, as batch norm should see them: x_0, y_0, x_1, y_1, ...
        every = ops.reshape(ops.stack(views, axis=1), (-1, *views[0].shape[1:]))
        x = self.query(every, training)
        return ops.reshape(x, (-1, len(views), x.shape[-1]))

    def contrast(self, features: Any, training: bool, ids: Any = None) -> Any:
        """loss(x, y) of two views, and with labels loss(x, y, ids=labels).

        More views are one array z, image after image: loss(z, ids=image numbers or labels).
        """
        count, dim = features.shape[1:]
        if count > 2:
            ids = numbers(features) if ids is None else ids
            return self.loss_of(ops.reshape(features, (-1, dim)), ids=ops.repeat(ids, count))
        given = {} if ids is None else {"ids": ids}
        return self.loss_of(features[:, 0], features[:, 1], **given)


def projection_head(hidden: int = 512, dim: int = 512) -> keras.Sequential:
    """Three layers to projections (batch, dim), batch norm after all but the last (Lu et al. 2023).

    Args:
        hidden: width of the first two layers.
        dim: width of the projections.
    """
    layers = []
    for i in (1, 2):
        norm = BatchNorm(momentum=0.9, epsilon=1e-5, name=f"bn{i}")
        linear = keras.layers.Dense(hidden, use_bias=False, name=f"fc{i}")
        layers += [linear, norm, keras.layers.ReLU()]
    return keras.Sequential([*layers, keras.layers.Dense(dim, name="fc3")], name="projection_head")
