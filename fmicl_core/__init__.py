"""The specification of f-MICL: divergences, similarities and the loss, in NumPy alone."""

from fmicl_core.divergences import (
    DIVERGENCES,
    KL,
    Divergence,
    Jeffreys,
    JensenShannon,
    Neyman,
    Pearson,
    ReverseKL,
    SquaredHellinger,
    Tsallis,
    VinczeLeCam,
    get_divergence,
)
from fmicl_core.objective import FMICL
from fmicl_core.ops import NUMPY, Ops
from fmicl_core.pairwise import Pairwise
from fmicl_core.reference import Reference, fmicl_reference
from fmicl_core.similarities import (
    SIMILARITIES,
    Cauchy,
    Cosine,
    DistanceKernel,
    Gaussian,
    Laplace,
    Similarity,
    get_similarity,
)

__version__ = "0.1.0"

__all__ = [
    "DIVERGENCES",
    "FMICL",
    "KL",
    "NUMPY",
    "SIMILARITIES",
    "Cauchy",
    "Cosine",
    "DistanceKernel",
    "Divergence",
    "Gaussian",
    "Jeffreys",
    "JensenShannon",
    "Laplace",
    "Neyman",
    "Ops",
    "Pairwise",
    "Pearson",
    "Reference",
    "ReverseKL",
    "Similarity",
    "SquaredHellinger",
    "Tsallis",
    "VinczeLeCam",
    "fmicl_reference",
    "get_divergence",
    "get_similarity",
]


def __dir__() -> list[str]:
    return __all__
