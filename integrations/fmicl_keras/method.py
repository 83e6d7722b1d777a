"""What all methods share: views of every image in the graph, and a momentum copy.

A method adds its own networks, `compare`, from the views to what its loss compares, and
`contrast`, from that to the loss. Everything that changes while training is a variable: Keras then
carries it through `jax.jit`, `tf.function` and PyTorch alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from fmicl_keras.augment import as_float, standardise
from fmicl_keras.backend import float32_at_least
from fmicl_keras.replicas import each_machines, gather, replica_count
from fmicl_recipes.methods import labels_for

#: Function from features x, y (N, d), and a bank of negatives (K, d) if there is one, to a scalar.
#: More than two views are one array x, and `ids` (N,), `bank_ids` (K,) say which rows belong
#: together; without them, and without labels, these are not passed.
Loss = Callable[..., Any]


class Method(keras.Model):
    """A contrastive method for `compile(optimizer)` and `fit(images)`, uint8 (N, H, W, C).

    A supervised one takes `fit(images, labels)`.

    Args:
        encoder: model from images (N, H, W, C) to features (N, F).
        head: model from features to projections (N, d).
        loss: function from projections to a scalar, such as `fmicl_tensorflow.FMICLLoss()`, in the
            Keras backend's own library.
        augment: model from float images in [0, 1] to one random view of each.
    """

    #: Number of random views of every image.
    view_count = 2
    #: Whether the labels that come with the images go to `contrast`, as `ids`.
    supervised = False

    def __init__(
        self, encoder: keras.Model, head: keras.Model, loss: Loss, augment: keras.Model
    ) -> None:
        super().__init__(dtype=float32_at_least(encoder.compute_dtype))
        self.encoder, self.head, self.augment = encoder, head, augment
        self.loss_of = loss
        #: The metric that keeps what the loss compared last; None where nobody asks.
        self.last: LastViews | None = None
        self.built = True  # as all its parts are

    def plan(self, step: int, count: int) -> dict[str, Any]:
        """Arguments of `compare` beside the views, which a trainer gives with the images.

        Args:
            step: number of the step, from 0.
            count: number N of images in the batch.
        """
        return {}

    def compare(self, *views: Any, **mode: Any) -> Any:
        """The features (N, V or more, d) that the loss compares of V views (N, H, W, C).

        `training` says whether it is training. A method can take what its `plan` returns.
        """
        raise NotImplementedError

    def contrast(self, *features: Any, **more: Any) -> Any:
        """The loss of features that `compare` returned; every replica has that of all together.

        `training` says whether it is training, and a supervised method takes `ids`, the labels of
        the images.
        """
        raise NotImplementedError

    def call(self, images: Any, training: bool = False) -> Any:
        """The features that the loss compares of random views of uint8 images (N, H, W, C).

        The images can be a dictionary, "images" and beside them what `plan` returned.
        """
        given = dict(images) if isinstance(images, dict) else {"images": images}
        views = self.views(given.pop("images"), self.view_count)
        return self.compare(*views, training=training, **given)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of the whole batch, y its labels; each of several replicas has a share of it.

        Raises:
            ValueError: the method is supervised, and there are no labels.
        """
        labels = labels_for(self.supervised, y)
        ids = {} if labels is None else {"ids": labels}
        features = ops.cast(y_pred, self.compute_dtype)
        loss = self.contrast(features, training=training, **ids)
        if self.last is not None:
            self.last.update_state(gather(features[:, :2]), loss)
        return loss / replica_count()  # Keras adds up the gradients

    def get_metrics_result(self) -> dict[str, Any]:
        """Keras' metrics; of one dimension where several machines train, whose mean it takes then.

        Its way to take the mean knows no scalars.
        """
        logs: dict[str, Any] = super().get_metrics_result()
        return {name: each_machines(value) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build what is not built; where all is, Keras' own would only lose a batch of the data."""
        if not (self.optimizer and self.optimizer.built):
            super()._maybe_symbolic_build(iterator, data_batch)

    def query(self, view: Any, training: bool) -> Any:
        """Projections (N, d) of a view (N, H, W, C)."""
        return self.head(self.encoder(view, training=training), training=training)

    def views(self, images: Any, count: int = 2) -> tuple[Any, ...]:
        """Random views (N, H, W, C), `count` of them, of uint8 images (N, H, W, C).

        Of images (N, V, H, W, C), V crops of each, view v is one of the crop v.
        """
        shape = images.shape[-3:]
        if len(images.shape) == 5:
            images = ops.reshape(images[:, :count], (-1, *shape))
            floats = as_float(images, self.compute_dtype)
        else:
            floats = ops.repeat(as_float(images, self.compute_dtype), count, axis=0)
        every = standardise(self.augment(floats, training=True))
        views = ops.reshape(every, (-1, count, *shape))
        return tuple(views[:, view] for view in range(count))

    def features(self, images: Any) -> Any:
        """The encoder's features (N, F) in float32 of uint8 images (N, H, W, C)."""
        floats = standardise(as_float(images, self.compute_dtype))
        return ops.cast(self.encoder(floats, training=False), "float32")

    def project(self, images: Any) -> Any:
        """Projections (N, 2, d) in float32 of two random views of uint8 images, see `views`."""
        pair = [self.query(view, training=False) for view in self.views(images)]
        return ops.cast(ops.stack(pair, axis=1), "float32")


class MomentumMethod(Method):
    """A method whose keys come from a copy of encoder and head that follows them slowly.

    Batch norms of the copy keep running statistics of their own.

    Args:
        encoder, head, loss, augment: arguments of `Method`; Keras must be able to clone encoder
            and head.

    Source: He et al. (2020), section 3.2.
    """

    def __init__(
        self, encoder: keras.Model, head: keras.Model, loss: Loss, augment: keras.Model
    ) -> None:
        super().__init__(encoder, head, loss, augment)
        self.key_encoder, self.key_head = momentum_copy(encoder), momentum_copy(head)

    def key(self, view: Any, training: bool) -> Any:
        """Keys (N, d) of a view (N, H, W, C), without a gradient."""
        features = self.key_encoder(view, training=training)
        return ops.stop_gradient(self.key_head(features, training=training))

    def follow(self, momentum: Any) -> None:
        """theta_key <- momentum theta_key + (1 - momentum) theta_query."""
        for key, query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for slow, fast in zip(key.weights, query.weights, strict=True):
                if fast.trainable:
                    # Tensors, since Keras takes a number times a variable for float32.
                    new, old = map(ops.convert_to_tensor, (fast, slow))
                    value = ops.stop_gradient(new)
                    slow.assign(momentum * old + (1.0 - momentum) * value)


def momentum_copy(model: keras.Model) -> keras.Model:
    """A copy of a model with equal weights that are not trained.

    The weights are marked one by one: a batch norm that is not trainable as a layer would use its
    running statistics.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for weight in copy.weights:
        weight.trainable = False
    return copy


class LastViews(keras.metrics.Metric):
    """A metric that keeps what the loss compared last.

    Its values are the loss of the last step, and whether a process was asked to stop before it: of
    several, Keras takes the mean, so that all of them know.

    Args:
        rows: number N of samples in a batch.
        dim: width d of the features.
        dtype: dtype of features and loss.
    """

    #: Names of the values.
    LOSS, STOP = "last_loss", "stop"

    def __init__(self, rows: int, dim: int, dtype: str = "float32") -> None:
        super().__init__(name="last_views", dtype=dtype)
        self.views, self.loss, self.stop = (
            self.add_variable(
                shape, "zeros", dtype=dtype, aggregation="only_first_replica", name=name
            )
            for name, shape in (("views", (rows, 2, dim)), ("loss", ()), ("stop", ()))
        )

    def update_state(self, features: Any, loss: Any) -> None:
        """Keep features (N, 2, d) and their loss."""
        self.views.assign(ops.stop_gradient(features))
        self.loss.assign(ops.stop_gradient(loss))

    def result(self) -> dict[str, Any]:
        """The loss of the last step, and whether to stop."""
        values = {self.LOSS: self.loss, self.STOP: self.stop}
        return {name: ops.convert_to_tensor(value) for name, value in values.items()}
