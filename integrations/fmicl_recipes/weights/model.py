"""What a trained run gives to others: its networks with canonical names, and how to build them.

A run folder holds

- `encoder.safetensors`: the encoder's arrays, by canonical name;
- `method.safetensors`: those of head, predictor, key networks and queue, to continue from;
- `model.json`: architecture, options, image shape, normalisation, how it was trained, versions.

They are written when the run is evaluated, as metrics.json is. Reading them runs no code: a
safetensors file is a table of shapes and numbers, and sizes are compared before memory is taken.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import fmicl_core
from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.augmentation import DEVIATION, MEAN
from fmicl_recipes.files import read_json, write_atomically
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import CONVOLUTIONAL, VITS, TrainSettings
from fmicl_recipes.weights.hub import fetch
from fmicl_recipes.weights.layouts import Entry, Weights
from fmicl_recipes.weights.networks import Architecture

MODEL, ENCODER, METHOD = "model.json", "encoder.safetensors", "method.safetensors"
#: Version of what is written here; a reader takes this one and those before.
FORMAT = 1
#: Dtypes of safetensors files that are read.
DTYPES = ("F16", "F32", "F64")
#: Packages whose versions are kept, where they are installed.
PACKAGES = ("numpy", "torch", "lightning", "jax", "flax", "optax", "tensorflow", "keras")


@dataclass(frozen=True)
class Model:
    """A trained encoder: what to build, and where its weights are.

    Args:
        architecture: the encoder, and its options.
        image_shape: (H, W, C) of the images that it was trained on.
        num_features: width F of its features.
        facts: contents of model.json.
        file: its encoder.safetensors.
    """

    architecture: Architecture
    image_shape: tuple[int, int, int]
    num_features: int
    facts: dict[str, Any]
    file: Path

    def weights(self) -> Weights:
        """The arrays of the encoder, by canonical name.

        Raises:
            ValueError: the file is damaged, or holds the arrays of another encoder.
        """
        entries = self.architecture.entries() if self.architecture.ours else None
        return read_weights(self.file, entries)


def write_model(
    folder: RunFolder,
    settings: TrainSettings,
    image_shape: Iterable[int],
    weights: Mapping[str, Any],
    trained: Mapping[str, Any],
) -> None:
    """Write the three files of a run.

    Args:
        folder: folder of the run.
        settings: its settings.
        image_shape: (H, W, C) of its images.
        weights: all arrays of the method by canonical name, those of the encoder as `encoder.`.
        trained: facts of the training, such as the number of its epochs.
    """
    shape = tuple(int(size) for size in image_shape)
    architecture = Architecture.of(settings, shape[2])
    own = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    rest = {k: v for k, v in weights.items() if not k.startswith("encoder.")}
    _write_weights(folder.path / ENCODER, own)
    _write_weights(folder.path / METHOD, rest)
    facts = {
        "format_version": FORMAT,
        "architecture": architecture.name,
        "options": architecture.options if architecture.ours else {"channels": shape[2]},
        "image_shape": list(shape),
        "num_features": trained_features(architecture, own),
        "normalisation": {"range": [0.0, 1.0], "mean": MEAN, "deviation": DEVIATION},
        "license": None,
        "trained": {**trained, "settings": settings.to_dict()},
        "versions": _versions(),
    }
    folder.write_json(MODEL, facts)


def trained_features(architecture: Architecture, weights: Weights) -> int | None:
    """Width of the features; None where only a library knows it."""
    return architecture.num_features if architecture.ours else None


def _write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    content = save(arrays, metadata={"format": "pt", "made_by": "fmicl"})
    write_atomically(path, lambda file: file.write(content))


def read_weights(path: Path, entries: Iterable[Entry] | None = None) -> Weights:
    """The arrays of a safetensors file.

    Args:
        path: file to read.
        entries: arrays that it has to hold, and no others; None: any.

    Raises:
        ValueError: there is no such file, or it is damaged, or holds other arrays.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise invalid("run", f"a folder with {path.name}", str(path.parent),
                      why=f"`fmicl evaluate {path.parent}` writes it.")  # fmt: skip
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: tuple(part.get_shape()) for name, part in slices.items()}
            for name, part in slices.items():
                check_choice(f"dtype of {name}", part.get_dtype(), (*DTYPES, "I32", "I64"))
            if entries is not None:
                check_shapes(path, found, {entry.name: entry.shape for entry in entries})
            return {name: file.get_tensor(name) for name in found}
    except (SafetensorError, OSError) as error:
        raise invalid("run", f"a readable {path.name}", str(path), why=f"{error}.") from error


def check_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
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


def open_model(folder: str | Path) -> Model:
    """The trained encoder in a folder.

    Args:
        folder: folder of a run, or any with model.json and encoder.safetensors; or one of the hub,
            hf://OWNER/NAME or hf://OWNER/NAME@REVISION.

    Raises:
        ValueError: there is none, or it is of a later version, or says what cannot be.
    """
    path = fetch(folder, (MODEL, ENCODER, METHOD))
    if not (path / MODEL).is_file():
        raise invalid("run", f"a folder with {MODEL}", str(path),
                      why=f"`fmicl evaluate {path}` writes it for a trained run.")  # fmt: skip
    facts = read_json(path / MODEL)
    try:
        number, shape, options = facts["format_version"], facts["image_shape"], facts["options"]
        name, normal = facts["architecture"], facts["normalisation"]
        known = Architecture(name, **options) if set(options) > {"channels"} else None
        architecture = known or Architecture(name, width=1, **options)
        sizes = [*architecture.options.values(), number, *shape]
        normalised = normal["mean"], normal["deviation"]
    except (KeyError, TypeError) as error:
        raise invalid("run", f"a {MODEL} as fmicl writes it", str(path), why=f"{error}.") from error
    if not all(type(size) is int and 1 <= size <= 2**20 for size in sizes) or len(shape) != 3:
        raise invalid("run", f"a {MODEL} with whole numbers from 1 to 2**20", sizes, what="sizes")
    if number > FORMAT:
        raise invalid("run", f"a model of format {FORMAT} or before", number, what="format_version",
                      why="A later version of fmicl wrote this one, and reads it.")  # fmt: skip
    if normalised != (MEAN, DEVIATION):
        raise invalid("run", f"images standardised by mean {MEAN} and deviation {DEVIATION}",
                      normalised, what="normalisation")  # fmt: skip
    if ":" not in str(name):
        check_choice("architecture", name, (*CONVOLUTIONAL, *VITS))
    if architecture.channels != shape[2]:
        raise invalid("run", f"images of {architecture.channels} channels", shape,
                      what="image_shape")  # fmt: skip
    features = architecture.num_features if architecture.ours else facts["num_features"]
    return Model(architecture, (shape[0], shape[1], shape[2]), features, facts, path / ENCODER)


def _versions() -> dict[str, str]:
    found = {"fmicl": fmicl_core.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
