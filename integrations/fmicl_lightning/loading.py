"""Loading the trained encoder of a run, and computing features with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fmicl_lightning.augment import standardise
from fmicl_lightning.devices import best_device
from fmicl_lightning.encoders import build_encoder, feature_width
from fmicl_lightning.weights import set_arrays
from fmicl_recipes.chunks import chunks, joined
from fmicl_recipes.data import AnyImages
from fmicl_recipes.loading import check_batch, check_dtype, check_images
from fmicl_recipes.sphere import Features
from fmicl_recipes.weights import AnyRun, Model, Weights, open_model
from fmicl_torch.inputs import check_tensor


class Encoder(nn.Module):
    """A trained network that standardises its images as in training.

    Args:
        network: module from standardised images (N, C, H, W) to features (N, F).
        image_shape: height, width and channels of the images in training.
        num_features: width F of the features.
    """

    def __init__(
        self, network: nn.Module, image_shape: tuple[int, int, int], num_features: int
    ) -> None:
        super().__init__()
        self.network, self.image_shape, self.num_features = network, image_shape, num_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, F), in the dtype of the weights, of images (N, C, H, W).

        The images are uint8, or float in [0, 1].

        Raises:
            ValueError: the images are no tensor, or of another shape or dtype.
        """
        check_tensor("images", images)
        dtype = str(images.dtype).removeprefix("torch.")
        check_batch(tuple(images.shape), dtype, self.image_shape[2], axis=1)
        floats = images.to(next(self.network.parameters()).dtype)
        return self.network(standardise(floats / 255.0 if dtype == "uint8" else floats))


def load_encoder(run: AnyRun, *, dtype: str = "float32") -> Encoder:
    """The trained encoder of a run, whichever framework trained it.

    It is on the CPU and in eval mode; every parameter can be trained.

    Args:
        run: folder with model.json and encoder.safetensors, such as that of a run; or what
            `open_model` returned for it.
        dtype: "float32" or "float64", the dtype of weights, arithmetic and features.

    Returns:
        A module from images (N, C, H, W), uint8 or float in [0, 1], to features (N, F).

    Raises:
        ValueError: there is no such encoder in the folder, or its files are damaged.
    """
    check_dtype(dtype)
    model = open_model(run)
    own = model.architecture
    weights = model.native("torch") if own.ours else None  # before anything of their size is built
    with torch.random.fork_rng(devices=[]):  # what is drawn is replaced
        network = build_encoder(
            own.name, own.channels, own.width,
            stem_stride=own.stem_stride, patch_size=own.patch_size,
        )  # fmt: skip
    network.to(getattr(torch, dtype))
    set_arrays(network, _library_weights(model, network) if weights is None else weights)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    height, width, channels = model.image_shape
    features = own.num_features if own.ours else feature_width(network, (channels, height, width))
    return Encoder(network, model.image_shape, features).eval()


def _library_weights(model: Model, network: nn.Module) -> Weights:
    """The arrays of a library's network; they have to be those that it has in this version."""
    return model.weights({name: tuple(of.shape) for name, of in network.state_dict().items()})


def in_chunks(images: AnyImages, device: Any) -> Iterator[torch.Tensor]:
    """The images on a device, a part at a time."""
    for chunk in chunks(images):
        yield torch.from_numpy(chunk).to(device, non_blocking=True)


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
    rows = check_images(images, encoder.image_shape)
    device = best_device()
    encoder.to(device)
    with torch.inference_mode():
        parts = (
            encoder(chunk.permute(0, 3, 1, 2)).cpu().numpy() for chunk in in_chunks(rows, device)
        )
        return joined(parts, len(rows), progress=progress)
