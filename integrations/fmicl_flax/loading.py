"""Loading the trained encoder of a run, and computing features with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fmicl_flax.augment import as_float, standardise
from fmicl_flax.compiled import encode_all
from fmicl_flax.encoders import build_encoder
from fmicl_flax.weights import set_arrays
from fmicl_recipes.data import AnyImages
from fmicl_recipes.loading import check_batch, check_dtype, check_images
from fmicl_recipes.sphere import Features
from fmicl_recipes.weights import AnyRun, open_model


class Encoder(nnx.Module):
    """A trained network that standardises its images as in training.

    Args:
        network: module from standardised images (N, H, W, C) to features (N, F).
        image_shape: height, width and channels of the images in training.
        num_features: width F of the features.
        dtype: dtype of the images that the network takes, and of the features.
    """

    def __init__(
        self,
        network: nnx.Module,
        image_shape: tuple[int, int, int],
        num_features: int,
        dtype: Any = jnp.float32,
    ) -> None:
        self.network, self.image_shape, self.num_features = network, image_shape, num_features
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features (N, F) in `dtype` of images (N, H, W, C), uint8 or float in [0, 1].

        Raises:
            ValueError: the images are of another shape or dtype.
        """
        images = jnp.asarray(images)
        check_batch(images.shape, images.dtype.name, self.image_shape[2], axis=3)
        if images.dtype == jnp.uint8:
            return self.network(standardise(as_float(images, self.dtype)))
        return self.network(standardise(images.astype(self.dtype)))


def load_encoder(run: AnyRun, *, dtype: str = "float32") -> Encoder:
    """The trained encoder of a run, whichever framework trained it.

    It is in eval mode, on JAX's default device; every weight can be trained.

    Args:
        run: folder with model.json and encoder.safetensors, such as that of a run; or what
            `open_model` returned for it.
        dtype: "float32" or "float64", the dtype of weights, arithmetic and features.

    Returns:
        A module from images (N, H, W, C), uint8 or float in [0, 1], to features (N, F).

    Raises:
        ValueError: there is no such encoder in the folder, or its files are damaged; or JAX was not
            told that it may compute in float64.
    """
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    kind = jnp.dtype(check_dtype(dtype, x64))
    model = open_model(run)
    own, weights = model.architecture, model.native("jax")
    network = build_encoder(
        own.name, own.channels, own.width, stem_stride=own.stem_stride, patch_size=own.patch_size,
        dtype=kind, rngs=nnx.Rngs(0),
    )  # fmt: skip
    set_arrays(network, weights)
    encoder = Encoder(network, model.image_shape, own.num_features, kind)
    encoder.eval()
    return encoder


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
    graph, state = nnx.split((encoder,))
    return encode_all(graph, state, check_images(images, encoder.image_shape), progress=progress)
