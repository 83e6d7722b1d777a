"""MoCo v3 (Chen et al. 2021): predictions of either view against momentum keys of the other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmicl_flax.augment import Augment
from fmicl_flax.layers import batch_norm, linear
from fmicl_flax.method import Contrast, Loss, MomentumMethod
from fmicl_flax.vit import ViT
from fmicl_recipes.momentum import ema_schedule
from fmicl_recipes.settings import TrainSettings


class MoCoV3(MomentumMethod):
    """q = predictor(head(encoder(view))), k = key of the view; loss(q1, k2) + loss(q2, k1).

    There is no queue: negatives are the other keys of the batch. InfoNCE stands without the factor
    2 * temperature of Chen et al. (2021), which only scales the learning rate.

    Args:
        encoder: any module from images (N, H, W, C) to features (N, F).
        feature_dim: width F of the features.
        loss: function from q, k (N, d) to a scalar, such as `FMICLLoss(negatives="cross")`.
        augment: function from a key and a float image in [0, 1] to one random view of it.
        projection_hidden: width of the hidden layers of projector and predictor.
        projection_dim: width d of predictions and keys.
        ema: momentum of the key encoder at the first step, in [0, 1); a cosine raises it to 1.
        frozen_patches: whether the patch projection of a `ViT` stays as it was drawn.
        dtype: dtype of projector, predictor and loss, float32 or float64.
        rngs: random numbers for the weights of projector and predictor.

    Source: Chen et al. (2021), algorithm 1 and sections 4.2, 4.3.
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
        ema: float = TrainSettings.ema,
        frozen_patches: bool = True,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        hidden, dim = projection_hidden, projection_dim
        head = mlp(feature_dim, hidden, hidden, dim, rngs=rngs, dtype=dtype)
        super().__init__(encoder, head, loss, augment, dtype)
        self.predictor = mlp(dim, hidden, dim, rngs=rngs, dtype=dtype)
        self.ema = ema
        if isinstance(encoder, ViT) and frozen_patches:
            self.trained = nnx.All(self.trained, nnx.Not(nnx.PathContains("patches")))

    def plan(self, step: int, steps: int, count: int) -> dict[str, Any]:
        """The momentum of the key encoder, which a cosine raises to 1."""
        return {"momentum": np.asarray(ema_schedule(self.ema, step, steps), self.dtype)}

    def contrast(self, v1: jax.Array, v2: jax.Array, momentum: jax.Array | float) -> Contrast:
        """loss(q1, k2) + loss(q2, k1)."""
        q1, q2 = self.predictor(self.query(v1)), self.predictor(self.query(v2))
        self.follow(momentum)
        k1, k2 = jax.lax.stop_gradient((self.key(v1), self.key(v2)))
        return self.loss(q1, k2) + self.loss(q2, k1), q1, k2


def mlp(*widths: int, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> nnx.Sequential:
    """Linear layers, each with a batch norm and all but the last with a ReLU.

    The last norm has no scale and shift. Source: Chen et al. (2021), section 4.2, and its code.
    """
    layers: list[Any] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            linear(inputs, outputs, rngs, bias=False, dtype=dtype),
            batch_norm(outputs, rngs, dtype=dtype),
            nnx.relu,
        ]
    last = batch_norm(widths[-1], rngs, dtype=dtype, affine=False)
    return nnx.Sequential(*layers[:-2], last)
