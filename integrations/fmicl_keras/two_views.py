"""An encoder and an augmentation as one Keras model that trains on two or more views."""

from __future__ import annotations

from typing import Any, Self

import keras
from keras import ops

from fmicl_core.checks import check_at_least, invalid
from fmicl_keras.backend import Tensor


@keras.saving.register_keras_serializable("fmicl")
class TwoViews(keras.Model):
    """Two or more random views of every sample through one encoder and its projection head.

    `model(x)` is (batch, views, dim), what `FMICLLoss` takes, so that `compile` and `fit(x)` are
    enough. `fit(x, labels)` and data sets with or without targets work as well, since the losses
    read targets only with `ids_from_targets=True`. `model.predict(x)` gives the encoder's features
    of x itself, (batch, features), without augmentation and without head.

    Args:
        encoder: model from a batch of samples to features (batch, features).
        augmentation: any layer or model that changes samples at random in training mode, such as a
            `keras.Sequential` of `keras.layers.Random*`. It is called once a view, also by
            `evaluate`.
        head: layer or model from features to projections (batch, dim); None if the encoder ends in
            one.
        views: number of views of every sample, >= 2.
        kwargs: options of `keras.Model`.

    Raises:
        ValueError: encoder is no model, augmentation or head no layer, or views no whole number
            >= 2.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augmentation: keras.layers.Layer,
        head: keras.layers.Layer | None = None,
        views: int = 2,
        **kwargs: Any,
    ) -> None:
        if not isinstance(encoder, keras.Model):
            raise invalid("encoder", "a keras.Model", encoder)
        for argument, layer in (("augmentation", augmentation), ("head", head)):
            if not isinstance(layer, keras.layers.Layer | None):
                raise invalid(argument, "a Keras layer or model", layer)
        super().__init__(**kwargs)
        self.views = check_at_least("views", views, 2)
        self.encoder, self.augmentation, self.head = encoder, augmentation, head

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Projections (batch, views, dim); `training` concerns encoder and head."""
        views = [self.augmentation(inputs, training=True) for _ in range(self.views)]
        # Side by side and in one batch, as batch norm should see them: x_0, y_0, x_1, y_1, ...
        every = keras.tree.map_structure(_interleave, *views)
        features = self.encoder(every, training=training)
        projections = features if self.head is None else self.head(features, training=training)
        return ops.reshape(projections, (-1, self.views, projections.shape[-1]))

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.fit`; targets may be missing, also beside a sample_weight."""
        return super().fit(x, _target(y, kwargs), *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`keras.Model.evaluate`; targets may be missing, also beside a sample_weight."""
        return super().evaluate(x, _target(y, kwargs), *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's features (batch, features) of samples as they are, by its `predict`."""
        return self.encoder.predict(*args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """The encoder's features of one batch of samples as they are."""
        return self.encoder.predict_on_batch(x)

    def get_config(self) -> dict[str, Any]:
        """The configuration: name, dtype, number of views, and those of the parts."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PARTS}
        return super().get_config() | {"views": self.views} | parts

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """The model `get_config` described, with new weights."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in PARTS
        }
        return cls(**config | parts)


PARTS = ("encoder", "augmentation", "head")


def _target(y: Any, options: dict[str, Any]) -> Any:
    if y is not None or (weights := options.get("sample_weight")) is None:
        return y
    # Keras drops sample weights without a word where there is no target. As floats they are none
    # that a loss would take for ids.
    return keras.tree.map_structure(lambda w: ops.convert_to_numpy(w).astype("float32"), weights)


def _interleave(*views: Tensor) -> Tensor:
    rows = ops.stack(views, axis=1)
    return ops.reshape(rows, (-1, *views[0].shape[1:]))
