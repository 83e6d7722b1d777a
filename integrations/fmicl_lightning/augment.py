"""Random views of images in PyTorch: a whole batch at once, and never waiting for the device.

Every image draws its own numbers. There is no loop over images and no branch on what was drawn, so
that `torch.compile` makes one graph of a view. What the numbers mean, and the conventions of the
steps, are said by `fmicl_recipes.augmentation`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fmicl_core.checks import check_choice
from fmicl_recipes.augmentation import (
    BLUR_SIGMA,
    DEVIATION,
    DIGITS,
    JITTERED,
    MEAN,
    PHOTO,
    TURNS,
    VIEWS,
    YIQ,
    DigitDraws,
    Photo,
    PhotoDraws,
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
    return DigitViews()


class PhotoViews(nn.Module):
    """Views by crop, flip, colour jitter in 4 of 5 images, grey scale and blur.

    Args:
        size: height and width of the views.
        strengths: strengths of the steps; a step of strength 0 is left out.
    """

    luminance: torch.Tensor
    turns: torch.Tensor

    def __init__(self, size: tuple[int, int], strengths: Photo) -> None:
        super().__init__()
        self.size, self.strengths = size, strengths
        # Buffers, so that no step copies them to the device; no part of a checkpoint.
        self.register_buffer("luminance", torch.from_numpy(YIQ[0][:, None, None]), persistent=False)
        self.register_buffer("turns", torch.from_numpy(TURNS), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Random views (N, C, H, W) of float images (N, C, H, W)."""
        return self.view(images, self.draw(images))

    def draw(self, images: torch.Tensor) -> PhotoDraws:
        """Random numbers (N, 1, 1, 1) for images."""
        count = len(PhotoDraws._fields), len(images)
        return PhotoDraws(*torch.rand(*count, 1, 1, 1, dtype=images.dtype, device=images.device))

    def view(self, images: torch.Tensor, draws: PhotoDraws) -> torch.Tensor:
        """The views (N, C, H, W) that draws (N, 1, 1, 1) make of float images (N, C, H, W)."""
        steps, colour = self.strengths, images.shape[1] == 3
        if steps.crop_scale < 1.0:
            images = self._crop(images, draws)
        if steps.flip:
            images = torch.where(draws.flip < steps.flip, images.flip(3), images)
        if steps.jitter:
            images = torch.where(draws.jitter < JITTERED, self._jitter(images, draws), images)
        if steps.grayscale and colour:
            images = torch.where(draws.grey < steps.grayscale, self._grey(images), images)
        if steps.blur:
            images = torch.where(draws.blur < steps.blur, _blur(images, draws.sigma), images)
        return images

    def _crop(self, images: torch.Tensor, draws: PhotoDraws) -> torch.Tensor:
        """A box of random area and aspect, resized bilinearly to the whole view."""
        shares = _shares(draws, (self.strengths.crop_scale, 1.0), self.strengths.aspect)
        lines = []
        for axis, share, place in zip((0, 1), shares, (draws.top, draws.left), strict=True):
            share, size, count = share.clamp(max=1.0), images.shape[2 + axis], self.size[axis]
            centres = (torch.arange(count, dtype=images.dtype, device=images.device) + 0.5) * (
                size / count
            )
            lines.append(centres * share.flatten(1) + size * ((1.0 - share) * place).flatten(1))
        rows, columns = lines
        return _read(images, rows[:, :, None] - 0.5, columns[:, None, :] - 0.5, outside="border")

    def _jitter(self, images: torch.Tensor, draws: PhotoDraws) -> torch.Tensor:
        """Brightness, contrast, saturation and hue, which are one affine map of the colours."""
        factors, turn = self.strengths.factors, self.strengths.turn
        brightness, contrast = (_between(u, *factors) for u in (draws.brightness, draws.contrast))
        colour = images.shape[1] == 3
        grey = self._grey(images) if colour else images
        offset = brightness * (1.0 - contrast) * grey.mean((1, 2, 3), keepdim=True)
        images = (brightness * contrast) * images + offset
        if colour:
            angle = 2.0 * math.pi * _between(draws.hue, -turn, turn)
            factor = _between(draws.saturation, *factors)
            still, cosine, sine = self.turns[:, :, :, None, None]
            turned = still + (factor * angle.cos())[:, None] * cosine
            turned = turned + (factor * angle.sin())[:, None] * sine  # (N, 3, 3, 1, 1)
            red, green, blue = (turned[:, :, c] * images[:, c : c + 1] for c in range(3))
            images = red + green + blue
        return images.clamp(0.0, 1.0)

    def _grey(self, images: torch.Tensor) -> torch.Tensor:
        """The luminance (N, 1, H, W) of images (N, 3, H, W)."""
        return (images * self.luminance).sum(1, keepdim=True)


class DigitViews(nn.Module):
    """Views by rotation, shear, shift, scale, noise and an erased box, as strong as `DIGITS`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Random views (N, C, H, W) of float images (N, C, H, W)."""
        return self.view(images, self.draw(images))

    def draw(self, images: torch.Tensor) -> DigitDraws:
        """Random numbers (N, 1, 1) for images, and noise of their shape."""
        count = len(DigitDraws._fields) - 1, len(images)
        numbers = torch.rand(*count, 1, 1, dtype=images.dtype, device=images.device)
        # Not `randn_like`: torch.compile takes two of the same images for one, and both views would
        # have the same noise.
        noise = torch.randn(images.shape, dtype=images.dtype, device=images.device)
        return DigitDraws._make([*numbers, noise])

    def view(self, images: torch.Tensor, draws: DigitDraws) -> torch.Tensor:
        """The views (N, C, H, W) that draws, (N, 1, 1) each, make of float images (N, C, H, W)."""
        images = _affine(images, draws) + DIGITS.noise * draws.noise
        return torch.where(_box(images, draws)[:, None], 0.0, images)


def _between(unit: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return low + (high - low) * unit


def _shares(
    draws: PhotoDraws | DigitDraws, areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width of a box as shares of the sides; they may be more than 1."""
    root = _between(draws.area, *areas).sqrt()
    stretch = (0.5 * _between(draws.aspect, *map(math.log, aspects))).exp()
    return root * stretch, root / stretch


def _read(
    images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, outside: str
) -> torch.Tensor:
    """The images at places given in pixels, which broadcast to (N, h, w), bilinearly.

    Args:
        images: float images (N, C, H, W).
        rows: places down the image; 0 is the middle of the first pixel.
        columns: places across the image.
        outside: what lies outside of the image, "zeros" or its "border".
    """
    height, width = images.shape[2:]
    across, down = (2.0 * columns + 1.0) / width - 1.0, (2.0 * rows + 1.0) / height - 1.0
    places = torch.stack(torch.broadcast_tensors(across, down), dim=3)
    return functional.grid_sample(images, places, padding_mode=outside, align_corners=False)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A Gaussian blur along either axis, of images that are mirrored at their border.

    As sums of shifted images: a convolution with a kernel for every image would be slow.
    """
    sigma = _between(sigma, *BLUR_SIGMA)
    for axis in (2, 3):
        size = images.shape[axis]
        radius = blur_radius(size)
        weights = [(-0.5 * (shift / sigma) ** 2).exp() for shift in range(radius + 1)]
        total = weights[0] + 2.0 * sum(weights[1:])
        margins = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
        padded = functional.pad(images, margins, mode="reflect")
        images = weights[0] / total * images
        for shift, weight in enumerate(weights[1:], start=1):
            pair = [padded.narrow(axis, radius + s, size) for s in (-shift, shift)]
            images = images + weight / total * (pair[0] + pair[1])
    return images


def _affine(images: torch.Tensor, draws: DigitDraws) -> torch.Tensor:
    """Rotate, shear, scale and shift about the centre in one interpolation; zeros come in."""
    height, width = images.shape[2:]
    bound = math.radians(DIGITS.degrees)
    angle, tilt = (_between(u, -bound, bound) for u in (draws.angle, draws.shear))
    down, right = (_between(u, -DIGITS.shift, DIGITS.shift) for u in (draws.down, draws.right))
    scale = _between(draws.scale, *DIGITS.scale)
    middle = (height - 1) / 2.0, (width - 1) / 2.0
    i = (
        torch.arange(height, dtype=images.dtype, device=images.device)[:, None]
        - middle[0]
        - height * down
    )
    j = torch.arange(width, dtype=images.dtype, device=images.device) - middle[1] - width * right
    c, s, t = angle.cos() / scale, angle.sin() / scale, tilt.tan()
    rows, columns = (c + s * t) * i - s * j + middle[0], (s - c * t) * i + c * j + middle[1]
    return _read(images, rows, columns, outside="zeros")


def _box(images: torch.Tensor, draws: DigitDraws) -> torch.Tensor:
    """Which pixels (N, H, W) are erased: those of a random box, in some of the images."""
    shares = _shares(draws, DIGITS.erased_area, DIGITS.erased_aspect)
    inside = []
    for axis, share, place in zip((2, 3), shares, (draws.top, draws.left), strict=True):
        size = images.shape[axis]
        start = size * (1.0 - share) * place
        centre = torch.arange(size, dtype=images.dtype, device=images.device) + 0.5
        inside.append((centre >= start) & (centre < start + size * share))
    return inside[0].mT & inside[1] & (draws.erased < DIGITS.erased)


def as_float(images: torch.Tensor, dtype: Any = torch.float32) -> torch.Tensor:
    """Float images (N, C, H, W) in [0, 1], channels last in memory, from uint8 (N, H, W, C)."""
    return images.permute(0, 3, 1, 2).to(dtype) / 255.0


def standardise(images: torch.Tensor) -> torch.Tensor:
    """The encoder's input: images in [0, 1] shifted and scaled to about mean 0 and variance 1."""
    return ((images - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)
