"""SimCLR (Chen et al. 2020): views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmicl_core.checks import check_at_least
from fmicl_flax.augment import Augment
from fmicl_flax.layers import batch_norm, linear
from fmicl_flax.method import Contrast, Loss, Method
from fmicl_recipes.methods import labels_for
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """All views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: any module from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")`; of more than two views from x (V N, d) and `ids` (V N,).
        augment: function from a key and a float image in [0, 1] to one random view of it.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
        views: number V of random views of every image; each pair of them is positive.
        supervised: whether the loss gets the labels of the images as `ids`.
        dtype: dtype of head and loss, float32 or float64.
        rngs: random numbers for the weights of the head.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        feature_dim: int,
        loss: Loss,
        augment: Augment,
        *,
        projection_hidden: int = TrainSettings.projection_hidden,
        projection_dim: int = TrainSettings.projection_dim,
        views: int = TrainSettings.views,
        supervised: bool = TrainSettings.supervised,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        head = projection_head(feature_dim, projection_hidden, projection_dim, rngs, dtype)
        super().__init__(encoder, head, loss, augment, dtype)
        self.view_count, self.supervised = check_at_least("views", views, 2), supervised

    def contrast(self, *views: jax.Array, ids: jax.Array | None = None) -> Contrast:
        """loss(x, y) of the projections of two views, and with labels loss(x, y, ids=labels).

        More views are one array z, view after view: loss(z, ids=image numbers or labels).
        """
        ids, z = labels_for(self.supervised, ids), self.query(jnp.concatenate(views))
        x, y, *more = jnp.split(z, len(views))
        if more:
            ids = jnp.arange(len(x)) if ids is None else ids
            loss = self.loss(z, ids=jnp.tile(ids, len(views)))
        else:
            loss = self.loss(x, y) if ids is None else self.loss(x, y, ids=ids)
        return loss, x, y


def projection_head(
    inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs, dtype: Any = jnp.float32
) -> nnx.Sequential:
    """Three layers, F to d, batch norm after each but the last (Lu et al. 2023)."""
    return nnx.Sequential(
        linear(inputs, hidden, rngs, bias=False, dtype=dtype),
        batch_norm(hidden, rngs, dtype=dtype),
        nnx.relu,
        linear(hidden, hidden, rngs, bias=False, dtype=dtype),
        batch_norm(hidden, rngs, dtype=dtype),
        nnx.relu,
        linear(hidden, outputs, rngs, dtype=dtype),
    )
