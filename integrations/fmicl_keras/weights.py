"""The arrays of Keras models as NumPy's, by name, and back."""

from __future__ import annotations

from typing import Any

import keras

from fmicl_core.checks import invalid
from fmicl_keras.checkpoints import to_numpy
from fmicl_recipes.weights.layouts import Weights

#: The networks of the methods, and their arrays outside of networks.
NETWORKS = ("encoder", "head", "predictor", "key_encoder", "key_head")
ARRAYS = ("queue", "queue_labels", "pointer")


def get_arrays(model: keras.Model) -> Weights:
    """Copies of all arrays of a method or a network, by the names of layer and variable."""
    return {name: to_numpy(variable).copy() for name, variable in variables(model).items()}


def set_arrays(model: keras.Model, arrays: Weights) -> None:
    """Give a method or a network arrays by name, in the dtypes of its own; others stay.

    Raises:
        ValueError: an array is not known, or of another shape.
    """
    own = variables(model)
    for name, array in arrays.items():
        if name not in own or tuple(own[name].shape) != array.shape:
            shape = tuple(own[name].shape) if name in own else "none of that name"
            raise invalid("weights", str(shape), array.shape, what=f"shape of {name}")
        own[name].assign(array)


def variables(model: keras.Model) -> dict[str, Any]:
    """The variables of a method, or of one network, by the names of layer and variable."""
    networks = {name: getattr(model, name) for name in NETWORKS if hasattr(model, name)}
    if not networks:
        return {f"{layer.name}.{v.name}": v for layer in model.layers for v in layer.weights}
    found = {
        f"{part}.{name}": variable
        for part, network in networks.items()
        for name, variable in variables(network).items()
    }
    return found | {name: getattr(model, name) for name in ARRAYS if hasattr(model, name)}
