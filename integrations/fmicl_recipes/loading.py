"""Loading the trained encoder of a run: what the loaders of the three frameworks share."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.checks import ENABLE_X64
from fmicl_recipes.data import StoredImages
from fmicl_recipes.run_folder import RunFolder

#: The package that trains in each framework, and loads what it trained.
PACKAGES = {"torch": "fmicl_lightning", "jax": "fmicl_flax", "tensorflow": "fmicl_keras"}
#: Dtypes that a loaded encoder can have, of its weights and of its arithmetic, each with the
#: precision that settings would name.
DTYPES = {"float32": "32", "float64": "64"}


def check_dtype(dtype: str, x64: bool = True) -> str:
    """Return a dtype that a loaded encoder can have.

    Args:
        dtype: name of the dtype.
        x64: whether the framework computes in float64, which JAX has to be told.

    Raises:
        ValueError: it cannot have it.
    """
    if check_choice("dtype", dtype, DTYPES) == "float64" and not x64:
        raise invalid("dtype", "'float32' while JAX knows no float64", dtype, why=ENABLE_X64)
    return dtype


def check_checkpoint(folder: RunFolder) -> None:
    """Check that a run has a checkpoint.

    Raises:
        ValueError: it has none.
    """
    if not folder.checkpoint.exists():
        raise invalid("run", f"a run folder with {folder.checkpoint.name}", str(folder.path))


def check_images(images: Any, shape: tuple[int, int, int]) -> Any:
    """The images as (N, H, W, C), if they are like those that an encoder was trained on.

    Args:
        images: (N, H, W, C) uint8, as an array or `StoredImages`; with one channel (N, H, W), too.
        shape: (H, W, C) of the images that the encoder was trained on.

    Raises:
        ValueError: they are not uint8, or have another shape, or there are none.
    """
    array: Any = images if isinstance(images, StoredImages) else np.asarray(images)
    if array.dtype != np.uint8:
        raise invalid("images", "uint8, 0 to 255", str(array.dtype), what="images.dtype")
    given = array.shape
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., None]
    if array.shape[1:] != shape or not len(array):
        sizes = ", ".join(map(str, shape))
        raise invalid("images", f"images like those of the run, (N, {sizes}) with N >= 1", given,
                      what="images.shape")  # fmt: skip
    return array


def check_batch(shape: tuple[Any, ...], dtype: str, channels: int, axis: int) -> None:
    """Check what a loaded encoder is called with: images, uint8 or float in [0, 1].

    Values are not looked at, as they may be unknown while a graph is traced.

    Args:
        shape: shape of the images.
        dtype: name of the images' dtype.
        channels: number of channels that the encoder is for.
        axis: axis of the channels, 1 or 3.

    Raises:
        ValueError: another shape or dtype.
    """
    if len(shape) != 4 or shape[axis] != channels:
        sizes = f"(N, {channels}, H, W)" if axis == 1 else f"(N, H, W, {channels})"
        raise invalid("images", sizes, tuple(shape), what="images.shape")
    if dtype != "uint8" and "float" not in dtype:
        raise invalid("images", "uint8, or float in [0, 1]", dtype, what="images.dtype")
