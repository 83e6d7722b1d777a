"""SimCLR (Chen et al. 2020): two views, one encoder, one head, a loss on their projections."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from fmicl_flax.augment import Augment
from fmicl_flax.layers import batch_norm, linear
from fmicl_flax.method import Contrast, Loss, Method
from fmicl_recipes.settings import TrainSettings


class SimCLR(Method):
    """Both views go through the same networks, in one batch; the loss takes their projections.

    Args:
        encoder: any module from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from projections x, y (N, d) to a scalar, such as
            `FMICLLoss(negatives="all")`.
        augment: function from a key and a float image in [0, 1] to one random view of it.
        projection_hidden: width of the two hidden layers of the head.
        projection_dim: width d of the projections.
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
        rngs: nnx.Rngs,
    ) -> None:
        head = projection_head(feature_dim, projection_hidden, projection_dim, rngs)
        super().__init__(encoder, head, loss, augment)

    def contrast(self, v1: jax.Array, v2: jax.Array) -> Contrast:
        """loss(x, y) of the projections of the two views."""
        x, y = jnp.split(self.query(jnp.concatenate([v1, v2])), 2)
        return self.loss(x, y), x, y


def projection_head(inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Three layers, F to d, batch norm after each but the last (Lu et al. 2023)."""
    return nnx.Sequential(
        linear(inputs, hidden, rngs, bias=False), batch_norm(hidden, rngs), nnx.relu,
        linear(hidden, hidden, rngs, bias=False), batch_norm(hidden, rngs), nnx.relu,
        linear(hidden, outputs, rngs),
    )  # fmt: skip
