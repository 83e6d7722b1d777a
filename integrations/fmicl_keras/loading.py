"""Loading the trained encoder of a run, and computing features with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import ops

from fmicl_keras.augment import as_float, standardise
from fmicl_keras.build import state, untrained_method
from fmicl_keras.checkpoints import load_checkpoint
from fmicl_keras.trainer import predict
from fmicl_recipes.data import AnyImages
from fmicl_recipes.loading import check_batch, check_images, open_run
from fmicl_recipes.sphere import Features


@keras.saving.register_keras_serializable("fmicl_keras")
class Encoder(keras.Model):
    """A trained network that standardises its images as in training.

    Args:
        network: model from standardised images (N, H, W, C) to features (N, F).
        options: options of `keras.Model`: `name`, `trainable` and `dtype`.
    """

    def __init__(self, network: keras.Model, **options: Any) -> None:
        super().__init__(**{"name": "encoder", "dtype": "float32"} | options)
        self.network = network
        self.built = True  # as the network is

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return tuple(self.network.input_shape[1:])

    @property
    def num_features(self) -> int:
        """Width F of the features."""
        return int(self.network.output_shape[-1])

    def call(self, images: Any, training: bool = False) -> Any:
        """Features (N, F) in float32 of images (N, H, W, C), uint8 or float in [0, 1].

        Raises:
            ValueError: the images are of another shape or dtype.
        """
        dtype = keras.backend.standardize_dtype(images.dtype)
        check_batch(tuple(images.shape), dtype, self.image_shape[2], axis=3)
        floats = as_float(images) if dtype == "uint8" else ops.cast(images, "float32")
        return ops.cast(self.network(standardise(floats), training=training), "float32")

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """The shape (N, F) of the features."""
        return shape[0], self.num_features

    def get_config(self) -> dict[str, Any]:
        """The configuration: name, whether it is trainable, and the network's own."""
        options = {name: getattr(self, name) for name in ("name", "trainable")}
        return options | {"network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Encoder:
        """The untrained model that `get_config` described."""
        network = keras.saving.deserialize_keras_object(config.pop("network"), custom_objects)
        return cls(network, **config)


def load_encoder(run: str | Path) -> Encoder:
    """The trained encoder of a run, every weight trainable, on the Keras backend in use.

    Args:
        run: folder of a run with framework = "tensorflow" and any `keras_backend`, as checkpoints
            hold plain arrays.

    Returns:
        A model from images (N, H, W, C), uint8 or float in [0, 1], to features (N, F).

    Raises:
        ValueError: there is no such run in the folder, or its checkpoint is damaged.
    """
    folder, settings, shape = open_run(run, "tensorflow")
    method = untrained_method(settings, shape, 1)
    load_checkpoint(folder.checkpoint, {"model": state(method)})
    network = method.encoder
    for layer in network.layers:
        layer.trainable = True  # a ViT's patch projection may have been frozen
    return Encoder(network)


def features(run: str | Path, images: AnyImages) -> Features:
    """Features (N, F) in float32 that a run's encoder gives for images.

    They are computed on the machine's accelerator if there is one. Not yet run on a GPU.

    Args:
        run: folder of the run, see `load_encoder`.
        images: uint8 images (N, H, W, C) like those of training, or `StoredImages`; (N, H, W) if of
            one channel.

    Raises:
        ValueError: the run cannot be loaded, or the images are of another shape or dtype.
    """
    encoder = load_encoder(run)
    return predict(encoder, check_images(images, encoder.image_shape))
