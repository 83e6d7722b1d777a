"""Random views of images, computed on the device by kornia."""

from __future__ import annotations

import kornia.augmentation as K
import torch
from torch import nn

from fmicl_core.checks import check_choice
from fmicl_recipes.augmentation import (
    BLUR_SIGMA,
    DEVIATION,
    DIGITS,
    JITTERED,
    MEAN,
    PHOTO,
    VIEWS,
    Photo,
    blur_radius,
)


def build_augmentation(name: str, size: tuple[int, int], strengths: Photo = PHOTO) -> nn.Module:
    """A module that makes a random view of every float image (N, C, H, W) in [0, 1].

    Args:
        name: "photo", for pictures of any kind: SimCLR's crop, flip, colour jitter, grey scale and
            blur (Chen et al. 2020, appendix A); "digits", for handwritten characters alone: small
            affine changes, noise and an erased box, but no flip, which would make another character
            or none.
        size: height and width of the views.
        strengths: strengths of the steps of "photo". Images without colour, C != 3, are jittered in
            brightness and contrast alone, and never made grey.

    Raises:
        ValueError: the name is unknown or a strength out of range.
    """
    if check_choice("augmentation", name, VIEWS) == "photo":
        return PhotoViews(size, strengths.checked())
    turn, shift = DIGITS.degrees, (DIGITS.shift, DIGITS.shift)
    return K.AugmentationSequential(
        K.RandomAffine(turn, translate=shift, scale=DIGITS.scale, shear=turn, p=1.0),
        K.RandomGaussianNoise(std=DIGITS.noise, p=1.0),
        K.RandomErasing(scale=DIGITS.erased_area, ratio=DIGITS.erased_aspect, p=DIGITS.erased),
    )


class PhotoViews(nn.Module):
    """The augmentation "photo", for images with colour and without.

    Args:
        size: height and width of the views.
        strengths: strengths of the steps; a step of strength 0 is left out.
    """

    def __init__(self, size: tuple[int, int], strengths: Photo) -> None:
        super().__init__()
        self.colour, self.plain = (_photo(size, strengths, colour) for colour in (True, False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Views (N, C, H, W) of float images of the same shape."""
        return self.colour(images) if images.shape[1] == 3 else self.plain(images)


def _photo(size: tuple[int, int], strengths: Photo, colour: bool) -> nn.Module:
    steps: list[K.AugmentationBase2D] = []
    if strengths.crop_scale < 1.0:
        area = strengths.crop_scale, 1.0
        steps.append(K.RandomResizedCrop(size, scale=area, ratio=strengths.aspect))
    if strengths.flip:
        steps.append(K.RandomHorizontalFlip(strengths.flip))
    if strengths.jitter:
        factors, turn = strengths.factors, (-strengths.turn, strengths.turn)
        saturation, hue = (factors, turn) if colour else (0.0, 0.0)
        steps.append(K.ColorJitter(factors, factors, saturation, hue, p=JITTERED))
    if strengths.grayscale and colour:
        steps.append(K.RandomGrayscale(p=strengths.grayscale))
    if strengths.blur:
        rows, columns = (2 * blur_radius(side) + 1 for side in size)
        steps.append(K.RandomGaussianBlur((rows, columns), BLUR_SIGMA, p=strengths.blur))
    return K.AugmentationSequential(*steps) if steps else nn.Identity()


def as_float(images: torch.Tensor) -> torch.Tensor:
    """Float images (N, C, H, W) in [0, 1], channels last in memory, from uint8 (N, H, W, C)."""
    return images.permute(0, 3, 1, 2).float() / 255.0


def standardise(images: torch.Tensor) -> torch.Tensor:
    """The encoder's input: images in [0, 1] shifted and scaled to about mean 0 and variance 1."""
    return ((images - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
