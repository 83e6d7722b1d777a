"""Checkpoints: one file with every variable of a run, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.archives import NUMBERS, read_arrays
from fmicl_recipes.files import parse_json, write_atomically
from fmicl_recipes.run_folder import unreadable_checkpoint
from fmicl_recipes.run_state import RunState

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


def load_checkpoint(path: Path, groups: Mapping[str, Sequence[Any]]) -> RunState:
    """Give variables the values that `save_checkpoint` wrote, and return how far the run is.

    Raises:
        ValueError: the file belongs to other variables, or is damaged.
    """
    try:
        arrays = read_arrays(path, {*groups, _FACTS})
        facts = parse_json(str(arrays.pop(_FACTS)))
    except (KeyError, ValueError, RecursionError) as error:
        raise unreadable_checkpoint(path) from error
    if not isinstance(facts, dict) or any(a.dtype.kind not in NUMBERS for a in arrays.values()):
        raise unreadable_checkpoint(path)
    state = RunState.of(facts, path)
    for group, variables in groups.items():
        shapes = {f"{group}/{index}": tuple(v.shape) for index, v in enumerate(variables)}
        if shapes != {k: v.shape for k, v in arrays.items() if k.startswith(f"{group}/")}:
            raise invalid("run", f"a checkpoint with the {group} of these settings", str(path))
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"{group}/{index}"])
    return state


def to_numpy(variable: Any) -> NDArray[Any]:
    """The value of a variable; Keras' own way makes TensorFlow's warn."""
    if keras.config.backend() == "tensorflow":
        return variable.value.numpy()
    return keras.ops.convert_to_numpy(variable.value)
