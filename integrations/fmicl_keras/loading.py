"""The encoder of a run as a model, its preprocessing included, and features of images by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import ops

from fmicl_keras.augment import as_float, standardise
from fmicl_keras.build import state, untrained_method
from fmicl_keras.checkpoints import load_checkpoint
from fmicl_keras.trainer import predict
from fmicl_recipes.data import Images
from fmicl_recipes.encoder import CHUNK, check_batch, check_images, open_run
from fmicl_recipes.trainer import Features


@keras.saving.register_keras_serializable("fmicl_keras")
class Encoder(keras.Model):
    """A network and the standardisation it was trained with.

    Args:
        network: from standardised images (N, H, W, C) to features (N, F).
        options: `name`, `trainable` and `dtype`, as Keras knows them.
    """

    def __init__(self, network: keras.Model, **options: Any) -> None:
        super().__init__(**{"name": "encoder", "dtype": "float32"} | options)
        self.network = network
        self.built = True  # as the network is

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return tuple(self.network.input_shape[1:])

    @property
    def num_features(self) -> int:
        """F."""
        return int(self.network.output_shape[-1])

    def call(self, images: Any, training: bool = False) -> Any:
        """Images (N, H, W, C), uint8 or float in [0, 1], to features (N, F) in float32.

        Raises:
            ValueError: another shape or dtype.
        """
        dtype = keras.backend.standardize_dtype(images.dtype)
        check_batch(tuple(images.shape), dtype, self.image_shape[2], axis=3)
        floats = as_float(images) if dtype == "uint8" else ops.cast(images, "float32")
        return ops.cast(self.network(standardise(floats), training=training), "float32")

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """(N, F)."""
        return shape[0], self.num_features

    def get_config(self) -> dict[str, Any]:
        """The network and what every model has."""
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
        run: folder of a run with framework = "tensorflow"; of any `keras_backend`, as checkpoints
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


def features(run: str | Path, images: Images) -> Features:
    """Features (N, F) float32 of images by a run's encoder, on the device that is there.

    Not yet run on a GPU.

    Args:
        run: as for `load_encoder`.
        images: uint8 (N, H, W, C) as in training or, of one channel, (N, H, W).

    Raises:
        ValueError: as for `load_encoder`; or the images are of another shape or dtype.
    """
    encoder = load_encoder(run)
    return predict(encoder, check_images(images, encoder.image_shape), CHUNK)
