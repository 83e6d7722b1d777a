"""The arrays of Keras models as NumPy's, by name, and back."""

from __future__ import annotations

from typing import Any

import keras

from fmicl_keras.checkpoints import to_numpy
from fmicl_recipes.weights.layouts import Weights, check_known
from fmicl_recipes.weights.networks import PARTS, QUEUE

#: The networks of the methods.
NETWORKS = ("encoder", *PARTS)


def get_arrays(model: keras.Model) -> Weights:
    """Copies of all arrays of a method or a network, by the names of layer and variable."""
    return {name: to_numpy(variable).copy() for name, variable in variables(model).items()}


def set_arrays(model: keras.Model, arrays: Weights) -> None:
    """Give a method or a network arrays by name, in the dtypes of its own; others stay.

    Raises:
        ValueError: an array is not known, or of another shape.
    """
    own = variables(model)
    check_known(arrays, own)
    for name, array in arrays.items():
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
    return found | {name: getattr(model, name) for name in QUEUE if hasattr(model, name)}
