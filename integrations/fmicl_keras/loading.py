"""Loading the trained encoder of a run, and computing features with it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from fmicl_keras.augment import as_float, standardise
from fmicl_keras.backend import library
from fmicl_keras.build import keep_float64, precision
from fmicl_keras.encoders import build_encoder
from fmicl_keras.trainer import predict
from fmicl_keras.weights import set_arrays
from fmicl_recipes.data import AnyImages
from fmicl_recipes.loading import DTYPES, check_batch, check_dtype, check_images
from fmicl_recipes.sphere import Features
from fmicl_recipes.weights import AnyRun, open_model


@keras.saving.register_keras_serializable("fmicl_keras")
class Encoder(keras.Model):
    """A trained network that standardises its images as in training.

    A model of yours that begins with it and is given bytes has to say so, by
    `keras.Input(encoder.image_shape, dtype="uint8")`: Keras makes floats of them otherwise, 0 to
    255, before the encoder sees them.

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
        """Features (N, F) in the model's dtype of images (N, H, W, C), uint8 or float in [0, 1].

        Raises:
            ValueError: the images are of another shape or dtype.
        """
        dtype = keras.backend.standardize_dtype(images.dtype)
        check_batch(tuple(images.shape), dtype, self.image_shape[2], axis=3)
        own = self.compute_dtype
        floats = as_float(images, own) if dtype == "uint8" else ops.cast(images, own)
        return self.network(standardise(floats), training=training)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """The shape (N, F) of the features."""
        return shape[0], self.num_features

    def get_config(self) -> dict[str, Any]:
        """The configuration: name, dtype, whether it is trainable, and the network's own."""
        options = {"name": self.name, "trainable": self.trainable, "dtype": self.compute_dtype}
        return options | {"network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Encoder:
        """The untrained model that `get_config` described."""
        _allow(config.get("dtype", "float32"))
        network = keras.saving.deserialize_keras_object(config.pop("network"), custom_objects)
        return cls(network, **config)


def load_encoder(run: AnyRun, *, dtype: str = "float32") -> Encoder:
    """The trained encoder of a run, whichever framework trained it, on the Keras backend in use.

    Every weight is trainable.

    Args:
        run: folder with model.json and encoder.safetensors, such as that of a run; or what
            `open_model` returned for it.
        dtype: "float32" or "float64", the dtype of weights, arithmetic and features.

    Returns:
        A model from images (N, H, W, C), uint8 or float in [0, 1], to features (N, F).

    Raises:
        ValueError: there is no such encoder in the folder, or its files are damaged; or Keras'
            backend is JAX, which was not told that it may compute in float64.
    """
    _allow(dtype)
    model = open_model(run)
    own, weights = model.architecture, model.native("tensorflow")
    with precision(DTYPES[dtype]):
        network = build_encoder(
            own.name, model.image_shape, own.width,
            stem_stride=own.stem_stride, patch_size=own.patch_size,
        )  # fmt: skip
    set_arrays(network, weights)
    return Encoder(network, dtype=dtype)


def _allow(dtype: str) -> None:
    """Let Keras and its backend compute in a dtype that an encoder can have.

    Raises:
        ValueError: they cannot.
    """
    jax = keras.config.backend() == "jax"
    check_dtype(dtype, library("ops").jax.config.jax_enable_x64 if jax else True)
    if dtype == "float64":
        keep_float64()


def features(run: AnyRun, images: AnyImages, *, progress: bool = False) -> Features:
    """Features (N, F) in float32 that a run's encoder gives for images.

    They are computed on the machine's accelerator if there is one. Not yet run on a GPU.

    Args:
        run: folder of the run, see `load_encoder`.
        images: uint8 images (N, H, W, C) like those of training, in memory or `StoredImages`, which
            are decoded a chunk at a time; (N, H, W) if of one channel.
        progress: whether to show a progress bar on a terminal.

    Raises:
        ValueError: the run cannot be loaded, or the images are of another shape or dtype.
    """
    encoder = load_encoder(run)
    return predict(encoder, check_images(images, encoder.image_shape), progress=progress)
