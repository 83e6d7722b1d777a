"""The specification of f-MICL: divergences, similarities and the loss, in NumPy alone."""

from fmicl_core import specification
from fmicl_core.divergences import get_divergence
from fmicl_core.ops import NUMPY, Ops
from fmicl_core.pairwise import Pairwise
from fmicl_core.reference import Reference, fmicl_reference
from fmicl_core.similarities import get_similarity
from fmicl_core.specification import *  # noqa: F403

__version__ = "0.2.0"

__all__ = [
    "NUMPY",
    "Ops",
    "Pairwise",
    "Reference",
    "fmicl_reference",
    "get_divergence",
    "get_similarity",
]
__all__ += specification.__all__


def __dir__() -> list[str]:
    return __all__
