"""Pairwise: what one pair of rows contributes to the loss, without its weight and its scheme."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

from fmicl_core.checks import callers_level, check_bool
from fmicl_core.divergences import Divergence
from fmicl_core.ops import NUMPY, Array, Ops
from fmicl_core.similarities import Logit, Similarity


@dataclass(frozen=True)
class Pairwise:
    """Score of a positive pair and penalty of a negative pair, as functions of one number z.

    z = a (x . y) + b (|x|^2 + |y|^2) + c. It is what backends keep compiled code by: alpha, the
    scheme of negatives, logit_scale and logit_bias are not part of it, so that a change of these
    compiles nothing anew. With a learned scale and bias (`FMICL.pairwise`) z = x . y + bias, where
    the rows carry the square root of the scale.

    Args:
        divergence: f-divergence that scores and penalties come from.
        similarity: what makes z of a pair of rows.
        normalize: whether the rows have unit length; a zero row stays zero.

    Raises:
        ValueError: a cosine leaves the domain of f*.

    Warns:
        UserWarning: the divergence is known to collapse features.

    Examples:
        >>> from fmicl_core import KL, Gaussian, Pairwise
        >>> pair = Pairwise(KL(), Gaussian(), normalize=True)
        >>> a, b, c = pair.coefficients()
        >>> z = a * 0.8 + c  # of unit rows with x . y = 0.8
        >>> round(z, 4), round(pair.positive(z), 4), round(float(pair.negative(z)), 4)
        (-0.4, 0.6, 0.6703)
    """

    divergence: Divergence
    similarity: Similarity
    normalize: bool

    def __post_init__(self) -> None:
        check_bool("normalize", self.normalize)
        self.similarity.check(self.divergence, self.normalize)
        if not self.divergence.suitable:
            warnings.warn(
                f"{self.divergence!r} does not keep features apart: they are known to collapse."
                " It is offered for study.",
                UserWarning,
                stacklevel=callers_level(),
            )

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c.

        On normalised features |x| = 1 is folded into c and b = 0. A zero row, which has no
        direction, thereby counts as orthogonal to every feature.
        """
        a, b, c = self.similarity.coefficients()
        return (a, 0.0, self.similarity.logits()[1]) if self.normalize else (a, b, c)

    @cached_property
    def ratio(self) -> Pairwise:
        """The specification whose penalty of a pair is its u, for values alone; KL's of a kernel.

        alpha = "auto" divides by the mean of it over the negative pairs.
        """
        of = self.similarity.ratio(self.divergence)
        return self if of == self.divergence else Pairwise(of, self.similarity, self.normalize)

    @property
    def coincident(self) -> float:
        """Number z of a pair whose rows coincide (of a cosine, are orthogonal).

        All formulas are finite there, so that it may stand for a pair that does not count.
        """
        return self.similarity.coefficients()[2]

    @property
    def limit(self) -> float:
        """What the penalty of a negative pair tends to as the pair moves apart, or 0.

        Backends add up the excess over it, and add the limit to the mean: float32 keeps the digits.
        """
        return self.similarity.limit(self.divergence)

    @property
    def gains_by_a_bound(self) -> bool:
        """Whether `excess_total_and_slope` is faster where `bounded`, as that of Jensen-Shannon."""
        general = Divergence.excess_total_and_slope
        return type(self.divergence).excess_total_and_slope is not general

    @property
    def ends_at_zero(self) -> bool:
        """Whether `excess_total_and_slope` of z = -inf is 0, so that it stands for no pair."""
        return self.gains_by_a_bound and isinstance(self.similarity, Logit)

    def positive(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Score of positive pairs, elementwise in z."""
        return self.similarity.positive(self.divergence, z, ops)

    def positive_slope(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Slope of `positive` in z."""
        return self.similarity.positive_slope(self.divergence, z, ops)

    def negative(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Penalty of negative pairs, elementwise in z."""
        return self.similarity.negative(self.divergence, z, ops)

    def excess(self, z: Array, ops: Ops = NUMPY) -> Array:
        """`negative` less `limit`."""
        return self.similarity.excess(self.divergence, z, ops)

    def excess_and_slope(self, z: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        """`excess` and its slope in z, which is that of `negative`."""
        return self.similarity.excess_and_slope(self.divergence, z, ops)

    def excess_total_and_slope(
        self, z: Array, ops: Ops = NUMPY, bounded: bool = False
    ) -> tuple[Array, Array]:
        """Sum of the excesses of the negative pairs in z, and the slope per pair.

        Args:
            z: number of every pair; it may be overwritten.
            ops: functions of the framework.
            bounded: whether z is known to be below LOGIT_BOUND where a learned scale and
                bias leave that open; it may be faster.
        """
        return self.similarity.excess_total_and_slope(self.divergence, z, ops, bounded)
