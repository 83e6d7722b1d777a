"""The names of the specification that users need beside a loss; every backend offers them, too."""

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
)
from fmicl_core.objective import FMICL
from fmicl_core.similarities import (
    SIMILARITIES,
    Cauchy,
    Cosine,
    DistanceKernel,
    Gaussian,
    Laplace,
    Similarity,
)

__all__ = [
    "DIVERGENCES",
    "FMICL",
    "KL",
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
    "Pearson",
    "ReverseKL",
    "Similarity",
    "SquaredHellinger",
    "Tsallis",
    "VinczeLeCam",
]
