"""What all methods share: an encoder, a head, random views of every image.

A method adds its own networks and `contrast`, from the views to a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmicl_flax.augment import Augment, as_float, standardise

#: Function from features x, y (N, d), and a bank of negatives (K, d) if there is one, to a scalar.
#: More than two views are one array x, and `ids` (N,), `bank_ids` (K,) say which rows belong
#: together; without them, and without labels, these are not passed.
Loss = Callable[..., jax.Array]
Contrast = tuple[jax.Array, jax.Array, jax.Array]


class Method(nnx.Module):
    """A contrastive method with any encoder and any loss.

    Args:
        encoder: any module from images (N, H, W, C) to features (N, F).
        head: module from features in `dtype` to projections (N, d).
        loss: function from projections to a scalar, such as `fmicl_jax.FMICLLoss()`.
        augment: function from a key and a float image (H, W, C) in [0, 1] to one random view of it.
        dtype: dtype of views, head and loss, float32 or float64.
    """

    #: Filter of the variables that have a gradient and an optimiser.
    trained: Any = nnx.Param
    #: Number of random views of every image.
    view_count = 2

    def __init__(
        self,
        encoder: nnx.Module,
        head: nnx.Module,
        loss: Loss,
        augment: Augment,
        dtype: Any = jnp.float32,
    ) -> None:
        self.encoder, self.head, self.loss, self.augment = encoder, head, loss, augment
        self.dtype = dtype

    def plan(self, step: int, steps: int, count: int) -> dict[str, Any]:
        """Arguments of `contrast` beside the views, made outside of the compiled step.

        Args:
            step: number of the step, from 0.
            steps: number of steps of the whole run.
            count: number N of images in the batch.
        """
        return {}

    def contrast(self, *views: Any, **plan: Any) -> Contrast:
        """The loss of the views (N, H, W, C), and the first two arrays (N, d) that it compares.

        A method takes arguments of its own beside the views, those that its `plan` returns; a
        supervised one also `ids`, the labels of the images.
        """
        raise NotImplementedError

    def __call__(self, images: jax.Array) -> jax.Array:
        """The encoder's features (N, F) in `dtype` of uint8 images (N, H, W, C)."""
        return self.encoder(standardise(as_float(images, self.dtype))).astype(self.dtype)

    def query(self, view: jax.Array) -> jax.Array:
        """Projections (N, d) of a view (N, H, W, C)."""
        return self.head(self.encoder(view).astype(self.dtype))

    def views(self, images: jax.Array, key: jax.Array, count: int = 2) -> tuple[jax.Array, ...]:
        """Random views (N, H, W, C), `count` of them, of uint8 images, each by its own key.

        Args:
            images: (N, H, W, C), or (N, count, H, W, C) where each view has a crop of its own.
            key: random key.
            count: number of views.
        """
        keys = jax.random.split(key, (count, len(images)))
        draw = jax.vmap(self.augment)
        floats = as_float(images, self.dtype)
        of_each = (floats[:, view] if images.ndim == 5 else floats for view in range(count))
        return tuple(standardise(draw(keys[view], of)) for view, of in enumerate(of_each))

    def project(self, images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Projections (N, d) of two random views of uint8 images, see `views`."""
        v1, v2 = self.views(images, key)
        return self.query(v1), self.query(v2)


class MomentumMethod(Method):
    """A method whose keys come from a copy of encoder and head that follows them slowly.

    Batch norms of the copy keep running statistics of their own.

    Args:
        encoder, head, loss, augment, dtype: arguments of `Method`.

    Source: He et al. (2020), section 3.2.
    """

    COPIES: ClassVar[tuple[str, ...]] = ("key_encoder", "key_head")
    trained = nnx.All(nnx.Param, *(nnx.Not(nnx.PathContains(name)) for name in COPIES))

    def __init__(
        self,
        encoder: nnx.Module,
        head: nnx.Module,
        loss: Loss,
        augment: Augment,
        dtype: Any = jnp.float32,
    ) -> None:
        super().__init__(encoder, head, loss, augment, dtype)
        self.key_encoder = nnx.clone(encoder, arrays=True)
        self.key_head = nnx.clone(head, arrays=True)

    def key(self, view: jax.Array) -> jax.Array:
        """Keys (N, d) of a view (N, H, W, C)."""
        return self.key_head(self.key_encoder(view).astype(self.dtype))

    def follow(self, momentum: jax.Array | float) -> None:
        """theta_key <- momentum theta_key + (1 - momentum) theta_query, without a gradient."""
        for key, query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            slow, fast = (nnx.state(network, nnx.Param) for network in (key, query))
            fast = jax.lax.stop_gradient(fast)
            nnx.update(key, optax.incremental_update(fast, slow, 1.0 - momentum))
