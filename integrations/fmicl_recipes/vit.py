"""The numbers of MoCo v3's vision transformer, ViT-S in 6 heads, that three frameworks share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid

HEADS = 6
#: What layer norms add to the variance.
EPSILON = 1e-6
#: Standard deviation of the class token at the start.
TOKEN_DEVIATION = 1e-6


def token_dim(width: int) -> int:
    """Length of a token: `HEADS` times the width of a head.

    Raises:
        ValueError: the width is odd, so that sines and cosines do not fill a token.
    """
    if width % 2:
        raise invalid("width", "an even number for a ViT", width)
    return HEADS * width


def check_patches(patch_size: int, height: int, width: int) -> None:
    """Raise ValueError when square patches do not tile an image."""
    if height % patch_size or width % patch_size:
        sides = f"a divisor of the images' sides, {height} x {width}"
        raise invalid("patch_size", sides, patch_size)


def sine_cosine(grid: tuple[int, int], dim: int) -> NDArray[np.float32]:
    """Positions of patches, one row a patch: sine and cosine of its column, then of its row.

    The frequencies are 10000^(-i / (dim / 4)), i < dim / 4.

    Args:
        grid: numbers of rows and of columns of patches.
        dim: length of a token, a multiple of 4.

    Returns:
        An array (rows * columns, dim), patches row by row.

    Source: Chen et al. (2021), its code.
    """
    rate = 10000.0 ** (-np.arange(dim // 4) / (dim // 4))
    angles = [np.arange(count)[:, None] * rate for count in grid]
    row, column = (np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in angles)
    place = np.tile(column, (grid[0], 1)), np.repeat(row, grid[1], axis=0)
    return np.concatenate(place, axis=1).astype(np.float32)
