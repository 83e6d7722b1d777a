"""Loading the trained encoder of a run, and computing features with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmicl_lightning.augment import standardise
from fmicl_lightning.build import untrained_encoder
from fmicl_lightning.checkpoints import read_checkpoint
from fmicl_lightning.devices import best_device
from fmicl_recipes.chunks import chunks, joined
from fmicl_recipes.data import AnyImages, Images, StoredImages
from fmicl_recipes.loading import check_batch, check_images, open_run
from fmicl_recipes.run_folder import unreadable_checkpoint
from fmicl_recipes.sphere import Features


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
        """Features (N, F) of images (N, C, H, W), uint8 or float in [0, 1].

        Raises:
            ValueError: the images are of another shape or dtype.
        """
        dtype = str(images.dtype).removeprefix("torch.")
        check_batch(tuple(images.shape), dtype, self.image_shape[2], axis=1)
        floats = images.to(next(self.network.parameters()).dtype)
        return self.network(standardise(floats / 255.0 if dtype == "uint8" else floats))


def load_encoder(run: str | Path) -> Encoder:
    """The trained encoder of a run, on the CPU and in eval mode; every parameter can be trained.

    Args:
        run: folder of a run with framework = "torch".

    Returns:
        A module from images (N, C, H, W), uint8 or float in [0, 1], to features (N, F).

    Raises:
        ValueError: there is no such run in the folder, or its checkpoint is damaged.
    """
    folder, settings, shape = open_run(run, "torch")
    weights = read_checkpoint(folder.checkpoint)["state_dict"]
    with torch.random.fork_rng(devices=[]):  # what is drawn is replaced
        network, width = untrained_encoder(settings, shape)
    own = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    load_weights(network, own, folder.checkpoint)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Encoder(network, shape, width).eval()


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Give a module the weights of a checkpoint.

    Raises:
        ValueError: the checkpoint is of another module.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        raise unreadable_checkpoint(path) from error


def in_chunks(images: AnyImages, device: Any) -> Iterator[torch.Tensor]:
    """The images on a device, a part at a time."""
    for chunk in chunks(images):
        yield torch.from_numpy(chunk).to(device, non_blocking=True)


def features(run: str | Path, images: Images | StoredImages) -> Features:
    """Features (N, F) in float32 that a run's encoder gives for images.

    They are computed on the machine's accelerator if there is one. Not yet run on a GPU.

    Args:
        run: folder of the run, see `load_encoder`.
        images: uint8 images (N, H, W, C) like those of training, which may be in their files;
            (N, H, W) if of one channel.

    Raises:
        ValueError: the run cannot be loaded, or the images are of another shape or dtype.
    """
    encoder = load_encoder(run)
    rows = check_images(images, encoder.image_shape)
    device = best_device()
    encoder.to(device)
    with torch.inference_mode():
        parts = (
            encoder(chunk.permute(0, 3, 1, 2)).float().cpu().numpy()
            for chunk in in_chunks(rows, device)
        )
        return joined(parts, len(rows))
