"""FMICL: the frozen, validated settings of the loss, and which pairs count with what weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from fmicl_core.checks import check_choice, check_positive
from fmicl_core.divergences import Divergence, get_divergence
from fmicl_core.ops import NUMPY, Array, Ops
from fmicl_core.pairwise import Pairwise
from fmicl_core.similarities import Similarity, get_similarity


class Defaults(NamedTuple):
    """Default options of every f-MICL loss in every backend."""

    divergence: str = "kl"
    similarity: str = "gaussian"
    alpha: float = 40.0
    negatives: str = "anchor"
    normalize: bool = True


DEFAULTS = Defaults()
#: What a loss keeps as it was made; alpha alone may change.
FIXED = ("divergence", "similarity", "negatives", "normalize", "objective")


@dataclass(frozen=True)
class Block:
    """Negative pairs (left_i, right_j), each of the same weight.

    The diagonal i = j, two views of one sample, is left out unless `right` is the bank.

    Args:
        left: name of the features on the left, "x" or "y".
        right: name of the features on the right, "x", "y" or "bank".
        share: this block's share of the mean over all negative pairs.
    """

    left: str
    right: str
    share: float

    @property
    def symmetric(self) -> bool:
        """Whether (i, j) and (j, i) are the same pair, so that half of the work is enough."""
        return self.left == self.right

    def sides(self, rows: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """The rows on its left and on its right; None on the right where both are the same."""
        return rows[self.left], None if self.symmetric else rows[self.right]

    @property
    def skips_diagonal(self) -> bool:
        """Whether pairs with i = j are left out."""
        return self.right != "bank"


#: Which negatives each scheme takes; "all" counts (x_i, y_j) and (y_j, x_i), hence the half.
NEGATIVES: dict[str, tuple[Block, ...]] = {
    "anchor": (Block("x", "x", 1.0),),
    "within": (Block("x", "x", 0.5), Block("y", "y", 0.5)),
    "cross": (Block("x", "y", 1.0),),
    "all": (Block("x", "x", 0.25), Block("y", "y", 0.25), Block("x", "y", 0.5)),
}
BANK = (Block("x", "bank", 1.0),)
#: Number of the sample of a bank's row: none of the batch.
NO_SAMPLE = -1


def negative_pairs(left: Array, right: Array) -> Array:
    """Which pairs are negatives: those of different samples; (N,), (K,) to (N, K) of booleans.

    Args:
        left: number of each left row's sample. Row i of x and row i of y are of sample i; where
            samples are equal (the same text twice in a batch) they share a number.
        right: number of each right row's sample; rows of a bank have `NO_SAMPLE` unless one is
            known to belong to the batch.
    """
    return left[:, None] != right[None, :]


def negative_blocks(negatives: str, has_bank: bool) -> tuple[Block, ...]:
    """The blocks of negative pairs; a bank supplies all of them.

    Raises:
        ValueError: `negatives` is unknown (the message lists the names).
    """
    check_choice("negatives", negatives, NEGATIVES)
    return BANK if has_bank else NEGATIVES[negatives]


def mean_over_blocks(blocks: Sequence[Block], block_mean: Callable[[Block], Array]) -> Array:
    """The mean over all negative pairs, made of the means over the pairs of each block."""
    means = [block.share * block_mean(block) for block in blocks]
    return sum(means[1:], means[0])


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergence", get_divergence(self.divergence))
        object.__setattr__(self, "similarity", get_similarity(self.similarity))
        object.__setattr__(self, "alpha", check_positive("alpha", self.alpha))
        check_choice("negatives", self.negatives, NEGATIVES)
        _ = self.pairwise  # checks that the options go together

    @cached_property
    def pairwise(self) -> Pairwise:
        """What one pair contributes: these settings without alpha and the scheme of negatives."""
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

    def blocks(self, has_bank: bool) -> tuple[Block, ...]:
        """The blocks of negative pairs."""
        return negative_blocks(self.negatives, has_bank)

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c; see `Pairwise.coefficients`."""
        return self.pairwise.coefficients()

    def positive(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Score of positive pairs, elementwise in z."""
        return self.pairwise.positive(z, ops)

    def negative(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Penalty of negative pairs, elementwise in z."""
        return self.pairwise.negative(z, ops)
