"""Which pairs count, with what weight: schemes of negatives, and the positives that ids make.

Two rows with equal ids belong together: they are a positive pair, or merely no negative one.
Without ids row i of x and row i of y are alone with each other, as if every i had an id of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fmicl_core.checks import check_choice, invalid
from fmicl_core.ops import Array

#: Which rows with equal ids are positives: all of them, or row i of x and row i of y alone.
POSITIVES = ("ids", "pair")


@dataclass(frozen=True)
class Block:
    """Pairs (left_i, right_j), each of the same weight.

    The diagonal i = j, two views of one sample, is left out unless `right` is the bank.

    Args:
        left: name of the features on the left, "x" or "y".
        right: name of the features on the right, "x", "y" or "bank".
        share: this block's share of the mean over all pairs.
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
#: Schemes that a single array has: of either all of its pairs.
SINGLE = ("anchor", "all")


@dataclass(frozen=True)
class Pairs:
    """Which pairs count in one call of a loss.

    Args:
        negatives: name of the scheme of negatives.
        positives: name in `POSITIVES`.
        single: whether there is no y: one array of labelled rows, or of several views.
        has_bank: whether a bank supplies the negatives.
        symmetric: whether the rows of y are anchors of InfoNCE beside those of x where negatives
            are "cross", as in CLIP.
        decoupled: whether positives stand in no softmax of InfoNCE, as in Yeh et al. (2022).

    Raises:
        ValueError: an option is unknown, or needs a second view `y`.
    """

    negatives: str
    positives: str = POSITIVES[0]
    single: bool = False
    has_bank: bool = False
    symmetric: bool = False
    decoupled: bool = False

    def __post_init__(self) -> None:
        check_choice("negatives", self.negatives, NEGATIVES)
        check_choice("positives", self.positives, POSITIVES)
        if not self.single:
            return
        why = "There is no second view `y`."
        if self.negatives not in SINGLE and not self.has_bank:
            expected = "'anchor' or 'all' for a single array"
            raise invalid("negatives", expected, self.negatives, why=why)
        if self.positives == "pair":
            raise invalid("positives", "'ids' for a single array", self.positives, why=why)

    @property
    def negative_blocks(self) -> tuple[Block, ...]:
        """The blocks of negative pairs, those of rows with equal ids excepted.

        A bank supplies all of them.
        """
        if self.has_bank:
            return BANK
        return NEGATIVES["anchor" if self.single else self.negatives]

    @property
    def positive_blocks(self) -> tuple[Block, ...]:
        """The blocks whose pairs with equal ids are positives, beside the pairs (x_i, y_i).

        With "all" both views are one set of 2 N rows, so that pairs within a view are positives,
        too. The shares make the mean over all anchors of the sum over their positives.
        """
        if self.positives == "pair":
            return ()
        if self.single:
            return (Block("x", "x", 1.0),)
        if self.negatives == "all" and not self.has_bank:
            return (Block("x", "x", 0.5), Block("y", "y", 0.5), Block("x", "y", 1.0))
        return (Block("x", "y", 1.0),)

    def positives_of(self, same: Array) -> Array:
        """Number of positives of every anchor, which share its weight 1/N equally; (N,).

        Args:
            same: number of rows of x that have the anchor's id, itself included, (N,).
        """
        if self.positives == "pair":
            return 0 * same + 1
        if self.single:
            return same - 1
        return 2 * same - 1 if len(self.positive_blocks) > 1 else same

    def negatives_of(self, same: Array, rows: Array) -> Array:
        """Share of an anchor's pairs with the other rows that are negative pairs; (N,).

        The mean over the negative pairs is the mean over all pairs, those with equal ids counting
        as 0, divided by the mean of these shares. With all ids different each is exactly 1.

        Args:
            same: number of rows with the anchor's id, (N,) in the dtype of the features: of the
                bank's rows, or of those of x, itself included.
            rows: number of rows of the bank, or of x.
        """
        others, alike = (rows, same) if self.has_bank else (rows - 1, same - 1)
        return (others - alike) / others


def pairs_of(
    negatives: str,
    positives: str,
    y: Array | None,
    bank: Array | None,
    ids: Array | None,
    bank_ids: Array | None,
    *,
    symmetric: bool = False,
    decoupled: bool = False,
) -> Pairs:
    """Which pairs count between the arrays that a loss was given.

    Where both y and ids are missing, `check_features` says so.

    Args:
        negatives, positives, symmetric, decoupled: as for `Pairs`.
        y, bank, ids, bank_ids: arguments of the loss; only whether they were given counts.

    Raises:
        ValueError: an option is unknown, or needs an argument that is missing.
    """
    for needed, given in (("ids", ids), ("bank", bank)):
        if bank_ids is not None and given is None:
            raise invalid("bank_ids", f"None without `{needed}`", "an array")
    single = ids is not None and y is None
    return Pairs(negatives, positives, single, bank is not None, symmetric, decoupled)


def mean_over_blocks(blocks: Sequence[Block], block_mean: Callable[[Block], Array]) -> Array:
    """The mean over all pairs, made of the means over the pairs of each block."""
    means = [block.share * block_mean(block) for block in blocks]
    return sum(means[1:], means[0])
