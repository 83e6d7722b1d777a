"""The arrays of a PyTorch module as NumPy's, by name, and back."""

from __future__ import annotations

import torch
from torch import nn

from fmicl_recipes.weights.layouts import Weights, check_known


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
    check_known(arrays, own)
    for name, array in arrays.items():
        own[name].copy_(torch.from_numpy(array.copy()))
