"""FMICL: the frozen, validated settings of the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from fmicl_core.checks import check_choice, check_positive
from fmicl_core.divergences import Divergence, get_divergence
from fmicl_core.ops import NUMPY, Array, Ops
from fmicl_core.pairs import NEGATIVES, POSITIVES
from fmicl_core.pairwise import Pairwise
from fmicl_core.similarities import Similarity, get_similarity


class Defaults(NamedTuple):
    """Default options of every f-MICL loss in every backend."""

    divergence: str = "kl"
    similarity: str = "gaussian"
    alpha: float = 40.0
    negatives: str = "anchor"
    normalize: bool = True
    positives: str = "ids"


DEFAULTS = Defaults()
#: What a loss keeps as it was made; alpha alone may change.
FIXED = ("divergence", "similarity", "negatives", "normalize", "positives", "objective")


@dataclass(frozen=True)
class FMICL:
    """Settings of the f-MICL loss (the objective of Lu et al. 2023, to minimise).

    loss = - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s)

    Args:
        divergence: name or `Divergence`.
        similarity: name or `Similarity`.
        alpha: weight > 0 of the negative term.
        negatives: scheme of negatives: "anchor" {(x_i, x_j), i != j}, the printed equation;
            "within", "anchor" averaged with its twin on y; "cross" {(x_i, y_j), i != j}; "all"
            pairs of different samples among both views.
        normalize: whether rows are scaled to unit length first; a zero row stays zero.
        positives: pairs of rows with equal ids that are positive: "ids", every one; "pair", (x_i,
            y_i) alone, so that other rows with that id are neither positive nor negative.

    Raises:
        ValueError: an option is unknown or out of range, or a cosine leaves the domain of f*.

    Warns:
        UserWarning: the divergence is known to collapse features.
    """

    divergence: Divergence | str = DEFAULTS.divergence
    similarity: Similarity | str = DEFAULTS.similarity
    alpha: float = DEFAULTS.alpha
    negatives: str = DEFAULTS.negatives
    normalize: bool = DEFAULTS.normalize
    positives: str = DEFAULTS.positives

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergence", get_divergence(self.divergence))
        object.__setattr__(self, "similarity", get_similarity(self.similarity))
        object.__setattr__(self, "alpha", check_positive("alpha", self.alpha))
        check_choice("negatives", self.negatives, NEGATIVES)
        check_choice("positives", self.positives, POSITIVES)
        _ = self.pairwise  # checks that the options go together

    @cached_property
    def pairwise(self) -> Pairwise:
        """What one pair contributes: these settings without alpha and which pairs count."""
        return Pairwise(self.generator, self.critic, self.normalize)

    @property
    def generator(self) -> Divergence:
        """The divergence as an object."""
        return get_divergence(self.divergence)

    @property
    def critic(self) -> Similarity:
        """The similarity as an object."""
        return get_similarity(self.similarity)

    def listed(self, **more: object) -> str:
        """The options, and some more, as they would be pasted between brackets."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name}={value!r}" for name, value in (own | more).items())

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c; see `Pairwise.coefficients`."""
        return self.pairwise.coefficients()

    def positive(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Score of positive pairs, elementwise in z."""
        return self.pairwise.positive(z, ops)

    def negative(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Penalty of negative pairs, elementwise in z."""
        return self.pairwise.negative(z, ops)
