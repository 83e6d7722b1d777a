"""The arrays of a Flax module as NumPy's, by name, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmicl_core.checks import invalid
from fmicl_recipes.weights.layouts import Weights


def get_arrays(module: nnx.Module) -> Weights:
    """Copies of all arrays of a module, by the names that lead to them, joined by dots."""
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        value = variable.get_value()
        if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            found[".".join(map(str, path))] = np.array(jax.device_get(value))
    return found


def set_arrays(module: nnx.Module, arrays: Weights) -> None:
    """Give a module arrays by name, in the dtypes and on the devices of its own; others stay.

    Raises:
        ValueError: an array is not known, or of another shape.
    """
    own: dict[str, Any] = {}
    state = nnx.state(module)
    for path, variable in nnx.to_flat_state(state):
        own[".".join(map(str, path))] = variable
    for name, array in arrays.items():
        if name not in own or own[name].get_value().shape != array.shape:
            shape = own[name].get_value().shape if name in own else "none of that name"
            raise invalid("weights", str(shape), array.shape, what=f"shape of {name}")
        before = own[name].get_value()
        own[name].set_value(jax.device_put(array.astype(before.dtype), before.sharding))
    nnx.update(module, state)
