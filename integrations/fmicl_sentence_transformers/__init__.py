"""f-MICL for sentence embeddings: a loss for sentence-transformers, and a SimCSE trainer."""

from fmicl_sentence_transformers.cached import CachedFMICLLoss
from fmicl_sentence_transformers.loss import FMICLLoss

__all__ = ["CachedFMICLLoss", "FMICLLoss"]


def __dir__() -> list[str]:
    return __all__
