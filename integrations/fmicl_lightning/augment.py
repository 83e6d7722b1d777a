"""Random views of images, computed on the device by kornia."""

from __future__ import annotations

import kornia.augmentation as K
import torch
from torch import nn

from fmicl_core.checks import check_choice
from fmicl_recipes.settings import AUGMENTATIONS


def build_augmentation(name: str, size: tuple[int, int]) -> nn.Module:
    """Augmentation of float images (N, C, H, W) in [0, 1], drawn anew for every image.

    Args:
        name: "photo", SimCLR's crop, flip, colour jitter and grey scale (Chen et al. 2020,
            appendix A; strength 0.5 as for CIFAR-10, no blur); "digits", small affine changes and
            noise, no flip since a flipped digit is another or none.
        size: (H, W) of the views.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice("augmentation", name, AUGMENTATIONS)
    if name == "photo":
        return K.AugmentationSequential(
            K.RandomResizedCrop(size, scale=(0.2, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            K.RandomGrayscale(p=0.2),
        )
    return K.AugmentationSequential(
        K.RandomAffine(12.0, translate=(0.12, 0.12), scale=(0.85, 1.15), shear=12.0, p=1.0),
        K.RandomGaussianNoise(std=0.08, p=1.0),
        K.RandomErasing(scale=(0.02, 0.12), p=0.3),
    )


def as_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images (N, H, W, C) to float (N, C, H, W) in [0, 1], in the channels-last layout."""
    return images.permute(0, 3, 1, 2).float() / 255.0


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] to about zero mean and unit variance, the encoder's input."""
    return ((images - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
