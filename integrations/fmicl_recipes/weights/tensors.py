"""Files of arrays by name, safetensors: written whole, and read after a look at their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.files import write_atomically
from fmicl_recipes.resources import free_memory
from fmicl_recipes.weights.layouts import Shape, Weights

#: Dtypes that are read.
DTYPES = ("F16", "F32", "F64", "I32", "I64")


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write arrays by name as a safetensors file, whole or not at all."""
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    content = save(arrays, metadata={"format": "pt", "made_by": "fmicl"})
    write_atomically(path, lambda file: file.write(content))


def read_weights(path: Path, shapes: Mapping[str, Shape] | None = None) -> Weights:
    """The arrays of a safetensors file.

    Args:
        path: file to read.
        shapes: shapes by name of the arrays that it has to hold, and no others; None: any.

    Raises:
        ValueError: there is no such file, or it is damaged, or holds other arrays, or more than
            fits into memory.
    """
    with _checked(path, shapes) as file:
        size, free = path.stat().st_size, free_memory()
        if size > free:
            raise invalid("run", f"{path.name} of at most {free} bytes, the free memory", size,
                          what="size")  # fmt: skip
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_weights(path: Path, shapes: Mapping[str, Shape] | None = None) -> None:
    """Check what `read_weights` checks of names and shapes, without reading an array."""
    with _checked(path, shapes):
        pass


@contextmanager
def _checked(path: Path, shapes: Mapping[str, Shape] | None) -> Iterator[Any]:
    """A file that is open within the block, whose arrays have these shapes."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise invalid("run", f"a folder with {path.name}", str(path.parent),
                      why=f"`fmicl evaluate {path.parent}` writes it.")  # fmt: skip
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name, part in slices.items():
                check_choice(f"dtype of {name}", part.get_dtype(), DTYPES)
            if shapes is not None:
                found = {name: tuple(part.get_shape()) for name, part in slices.items()}
                check_shapes(path, found, shapes)
            yield file
    except (SafetensorError, OSError) as error:
        raise invalid("run", f"a readable {path.name}", str(path), why=f"{error}.") from error


def check_shapes(path: Path, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    """Check that a file holds the arrays of a network, before any is read.

    Raises:
        ValueError: it does not; the first that differs is named.
    """
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise invalid(
                "run", f"{path.name} with {name} of the shape {wanted.get(name, 'none')}",
                found.get(name, "none"), what=f"shape of {name}",
            )  # fmt: skip
