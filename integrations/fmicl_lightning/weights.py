"""The arrays of a PyTorch module as NumPy's, by name, and back."""

from __future__ import annotations

import torch
from torch import nn

from fmicl_core.checks import invalid
from fmicl_recipes.weights.layouts import Weights


def get_arrays(module: nn.Module) -> Weights:
    """Copies of all arrays of a module, by the names of its `state_dict`."""
    return {
        name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()
    }


@torch.no_grad()
def set_arrays(module: nn.Module, arrays: Weights) -> None:
    """Give a module arrays by name, in the dtypes of its own; others stay.

    Raises:
        ValueError: an array is not known, or of another shape.
    """
    own = module.state_dict()
    for name, array in arrays.items():
        if name not in own or tuple(own[name].shape) != array.shape:
            shape = tuple(own[name].shape) if name in own else "none of that name"
            raise invalid("weights", str(shape), array.shape, what=f"shape of {name}")
        own[name].copy_(torch.from_numpy(array.copy()))
