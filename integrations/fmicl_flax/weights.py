"""The arrays of a Flax module as NumPy's, by name, and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmicl_recipes.weights.layouts import Weights, check_known


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
    state = nnx.state(module)
    variables = {".".join(map(str, path)): of for path, of in nnx.to_flat_state(state)}
    own = {name: variable.get_value() for name, variable in variables.items()}
    check_known(arrays, own)
    for name, array in arrays.items():
        value = array.astype(own[name].dtype)
        variables[name].set_value(jax.device_put(value, own[name].sharding))
    nnx.update(module, state)
