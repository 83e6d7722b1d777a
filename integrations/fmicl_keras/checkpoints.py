"""Checkpoints: one file with every variable of a run, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.files import write_atomically
from fmicl_recipes.run_folder import unreadable_checkpoint

#: Name of the entry that is no variable.
_FACTS = "facts"


def save_checkpoint(path: Path, groups: Mapping[str, Sequence[Any]], facts: dict[str, Any]) -> None:
    """Write groups of variables, in their order, and facts that JSON can hold."""
    arrays: dict[str, Any] = {
        f"{group}/{index}": to_numpy(variable)
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    arrays[_FACTS] = np.array(json.dumps(facts))
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_checkpoint(path: Path, groups: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Give variables the values that `save_checkpoint` wrote, and return the facts.

    Raises:
        ValueError: the file belongs to other variables, or is damaged.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files if name.split("/")[0] in groups}
            facts: dict[str, Any] = json.loads(str(stored[_FACTS]))
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise unreadable_checkpoint(path) from error
    for group, variables in groups.items():
        shapes = {f"{group}/{index}": tuple(v.shape) for index, v in enumerate(variables)}
        if shapes != {k: v.shape for k, v in arrays.items() if k.startswith(f"{group}/")}:
            raise invalid("run", f"a checkpoint with the {group} of these settings", str(path))
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"{group}/{index}"])
    return facts


def to_numpy(variable: Any) -> NDArray[Any]:
    """The value of a variable; Keras' own way makes TensorFlow's warn."""
    if keras.config.backend() == "tensorflow":
        return variable.value.numpy()
    return keras.ops.convert_to_numpy(variable.value)
