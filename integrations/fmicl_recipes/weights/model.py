"""What a trained run gives to others: its networks with canonical names, and how to build them.

A run folder holds

- `encoder.safetensors`: the encoder's arrays, by canonical name;
- `method.safetensors`: those of head, predictor, key networks and queue, to continue from;
- `model.json`: architecture, options, image shape, normalisation, how it was trained, versions.

They are written when the run is evaluated, as metrics.json is. Reading them runs no code: a
safetensors file is a table of shapes and numbers. Sizes are compared before memory is taken, and
before a network is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.augmentation import DEVIATION, MEAN
from fmicl_recipes.choices import (
    CONVOLUTIONAL,
    ENCODER_LIBRARIES,
    FRAMEWORKS,
    KERAS_BACKENDS,
    METHODS,
    VITS,
)
from fmicl_recipes.files import check_own_files, read_json
from fmicl_recipes.metrics import versions
from fmicl_recipes.run_folder import SETTINGS, RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.weights.hub import fetch
from fmicl_recipes.weights.layouts import Shape, Weights, to_native
from fmicl_recipes.weights.networks import Architecture
from fmicl_recipes.weights.tensors import check_weights, read_weights, write_weights

MODEL, ENCODER, METHOD = "model.json", "encoder.safetensors", "method.safetensors"
#: Version of what is written here; a reader takes this one and those before.
FORMAT = 1
#: Pixels of an image, and numbers in the positions of its patches, at most.
MOST_PIXELS, MOST_POSITIONS = 2**26, 2**28


@dataclass(frozen=True)
class Model:
    """A trained encoder: what to build, and where its weights are.

    Args:
        architecture: the encoder, and its options.
        image_shape: (H, W, C) of the images that it was trained on.
        facts: contents of model.json.
        file: its encoder.safetensors.
    """

    architecture: Architecture
    image_shape: tuple[int, int, int]
    facts: dict[str, Any]
    file: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The options of its run that had an effect; none if model.json does not say."""
        trained = self.facts.get("trained")
        settings = trained.get("settings") if isinstance(trained, dict) else None
        return settings if isinstance(settings, dict) else {}

    @property
    def framework(self) -> tuple[str, str]:
        """The framework that trained it, and Keras' backend if it was Keras.

        Raises:
            ValueError: model.json does not say it, or names none that fmicl knows.
        """
        settings = self.settings
        backend = settings.get("keras_backend", TrainSettings.keras_backend)
        try:
            framework = settings["framework"]
        except KeyError as error:
            raise _malformed(self.file.with_name(MODEL), error) from error
        return (
            check_choice("framework", framework, FRAMEWORKS),
            check_choice("keras_backend", backend, KERAS_BACKENDS),
        )

    def weights(self, shapes: Mapping[str, Shape] | None = None) -> Weights:
        """The arrays of the encoder, by canonical name.

        Args:
            shapes: shapes of the arrays by name, for an encoder that only its library knows.

        Raises:
            ValueError: the file is damaged, or holds the arrays of another encoder.
        """
        return read_weights(self.file, self._shapes() if self.architecture.ours else shapes)

    def check(self) -> None:
        """Check that the file holds the encoder, of which only names and shapes are looked at.

        Raises:
            ValueError: it does not.
        """
        check_weights(self.file, self._shapes() if self.architecture.ours else None)

    def _shapes(self) -> dict[str, Shape]:
        return {entry.name: entry.shape for entry in self.architecture.entries()}

    def native(self, framework: str) -> Weights:
        """The arrays of an encoder of ours by a framework's names, in its layouts.

        Args:
            framework: "torch", "jax" or "tensorflow".

        Raises:
            ValueError: the encoder is a library's, or `weights` cannot be read.
        """
        self.check_ours()
        return to_native(self.weights(), self.architecture.entries(), framework)

    def check_ours(self) -> None:
        """Check that the encoder is one that every framework has.

        Raises:
            ValueError: it is a library's, which only PyTorch has.
        """
        if not self.architecture.ours:
            ours = ", ".join((*CONVOLUTIONAL, *VITS))
            raise invalid("run", f"a run whose encoder is one of {ours}", self.architecture.name,
                          what="encoder",
                          why="That one needs PyTorch: fmicl_lightning loads it.")  # fmt: skip


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
    write_weights(folder.path / ENCODER, own)
    write_weights(folder.path / METHOD, rest)
    facts = {
        "format_version": FORMAT,
        "architecture": architecture.name,
        "options": architecture.options,
        "image_shape": list(shape),
        "num_features": architecture.num_features if architecture.ours else None,
        "normalisation": {"range": [0.0, 1.0], "mean": MEAN, "deviation": DEVIATION},
        "license": None,
        "trained": {**trained, "settings": in_effect(settings)},
        "versions": versions(),
    }
    folder.write_json(MODEL, facts)


def in_effect(settings: TrainSettings) -> dict[str, Any]:
    """The options of settings that have an effect, by name."""
    return {name: of for name, of in settings.to_dict().items() if settings.applies(name)}


#: The folder of a run, or its place on the hub; or the run's model, which is open.
AnyRun = str | Path | Model


def open_model(run: AnyRun) -> Model:
    """The trained encoder in a folder.

    Args:
        run: folder of a run, or any with model.json and encoder.safetensors; or one of the hub,
            hf://OWNER/NAME or hf://OWNER/NAME@REVISION; or what this function returned, so that
            the hub is asked once for what many look at.

    Raises:
        ValueError: there is none, or it is of a later version, or says what cannot be.
    """
    if isinstance(run, Model):
        return run
    path = fetch(run, (MODEL, ENCODER, METHOD))
    if not (path / MODEL).is_file():
        raise _no_model(path)
    if path == Path(run):  # the hub's client has links to a store of its own
        check_own_files(path)
    if (path / SETTINGS).is_file():
        RunFolder(path).read_json(SETTINGS)  # which is of a version that is known
    facts = read_json(path / MODEL)
    try:
        number, shape, options = facts["format_version"], facts["image_shape"], facts["options"]
        name, normal = facts["architecture"], facts["normalisation"]
        library, _, model = name.partition(":")
        if not (model and library in ENCODER_LIBRARIES):
            check_choice("architecture", name, (*CONVOLUTIONAL, *VITS))
        architecture = Architecture(name, **options)
        if options != architecture.options:
            raise KeyError(*architecture.options)
        sizes = [*options.values(), number, *shape]
        normalised = normal["mean"], normal["deviation"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _malformed(path / MODEL, error) from error
    if not all(type(size) is int and 1 <= size <= 2**20 for size in sizes) or len(shape) != 3:
        raise invalid("run", f"a {MODEL} with whole numbers from 1 to 2**20", sizes, what="sizes")
    if number > FORMAT:
        raise invalid("run", f"a model of format {FORMAT} or before", number, what="format_version",
                      why="A later version of fmicl wrote this one, and reads it.")  # fmt: skip
    if normalised != (MEAN, DEVIATION):
        raise invalid("run", f"images standardised by mean {MEAN} and deviation {DEVIATION}",
                      normalised, what="normalisation")  # fmt: skip
    _check_image(shape, architecture)
    return Model(architecture, (shape[0], shape[1], shape[2]), facts, path / ENCODER)


def _check_image(shape: list[int], architecture: Architecture) -> None:
    """Check that images have the encoder's channels, and that no image fills the memory."""
    if architecture.channels != shape[2]:
        raise invalid("run", f"images of {architecture.channels} channels", shape,
                      what="image_shape")  # fmt: skip
    positions = 0
    if architecture.name in VITS:  # which Keras computes as it builds the network
        patches = prod(side // architecture.patch_size for side in shape[:2])
        positions = patches * architecture.num_features
    if prod(shape[:2]) > MOST_PIXELS or positions > MOST_POSITIONS:
        raise invalid("run", f"images of at most {MOST_PIXELS} pixels, and positions of their"
                      f" patches of at most {MOST_POSITIONS} numbers", shape,
                      what="image_shape")  # fmt: skip


def _no_model(path: Path) -> InvalidArgument:
    """The error for a folder without model.json, which says how it gets there."""
    folder = RunFolder(path)
    if not (path / "settings.json").is_file():
        return invalid("run", f"a folder with {MODEL}", str(path))
    method = folder.read_json("settings.json").get("method")
    if method not in list(METHODS):
        return invalid("run", f"a run of {', '.join(METHODS)}", method, what="method")
    if not folder.checkpoint.exists():
        why = "The run has not trained for an epoch yet."
    else:
        why = f"The run was not evaluated to its end: `fmicl evaluate {path}` writes it."
    return invalid("run", f"a folder with {MODEL}", str(path), why=why)


def _malformed(path: Path, error: Exception) -> InvalidArgument:
    return invalid("run", f"a {MODEL} as fmicl writes it", str(path),
                   why=f"{type(error).__name__}: {error}.")  # fmt: skip
