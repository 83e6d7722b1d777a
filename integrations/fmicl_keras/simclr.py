"""SimCLR (Chen et al. 2020): two views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fmicl_keras.method import Loss, Method
from fmicl_keras.views import projection_head
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """Both views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: from images (N, H, W, C) to features (N, F).
        loss: from projections x, y (N, d) to a scalar, such as `FMICLLoss(negatives="all")` of the
            Keras backend's library.
        augment: from float images in [0, 1] to one random view of each.
        settings: of the run, see `Method`.
    """

    def __init__(
        self, encoder: keras.Model, loss: Loss, augment: keras.Model, settings: TrainSettings
    ) -> None:
        hidden, dim = settings.projection_hidden, settings.projection_dim
        head = projection_head(hidden, dim)
        head.build(encoder.output_shape)
        super().__init__(encoder, head, loss, augment, settings)

    def compare(self, v1: Any, v2: Any, training: bool) -> Any:
        """Projections of the two views, (N, 2, d)."""
        # Side by side and in one batch, as batch norm should see them: x_0, y_0, x_1, y_1, ...
        both = ops.reshape(ops.stack([v1, v2], axis=1), (-1, *v1.shape[1:]))
        x = self.query(both, training)
        return ops.reshape(x, (-1, 2, x.shape[-1]))

    def contrast(self, features: Any, training: bool) -> Any:
        """loss(x, y)."""
        return self.loss_of(features[:, 0], features[:, 1])
