"""Weights that travel: one set of names and layouts for the networks of three frameworks.

| file | |
| --- | --- |
| `layouts.py` | how an array lies in each framework |
| `networks.py` | what each network consists of, and its names in each framework |
| `hub.py` | the place of a model: a folder, or a repository of the Hugging Face hub |
| `card.py`, `export.py` | a model given away, with its card |
| `model.py` | `encoder.safetensors`, `method.safetensors` and `model.json`: written and read |
| `tensors.py` | a safetensors file |

The canonical names are those of torchvision's ResNets and of timm's vision transformers, the
layouts PyTorch's.
"""

from fmicl_recipes.weights.export import export_model, push_to_hub
from fmicl_recipes.weights.layouts import Weights
from fmicl_recipes.weights.model import AnyRun, Model, open_model, write_model
from fmicl_recipes.weights.networks import Architecture, method_arrays

__all__ = [
    "AnyRun",
    "Architecture",
    "Model",
    "Weights",
    "export_model",
    "method_arrays",
    "open_model",
    "push_to_hub",
    "write_model",
]


def __dir__() -> list[str]:
    return __all__
