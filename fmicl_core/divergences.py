"""f-divergences, each written once, for every backend.

A divergence is given by its generator f, convex on u > 0 with f(1) = 0. The loss needs it in log
space, L = log u, where u is the value of the similarity kernel:

    score(L)   = f'(e^L)           what positive pairs gain
    penalty(L) = f*(f'(e^L))       what negative pairs cost

and their slopes in L, tied by penalty'(L) = e^L score'(L). Formulas: Lu et al. (2023),
rewritten in log space; where the printed table is wrong the docstring says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fmicl_core.checks import check_name, check_positive, invalid
from fmicl_core.ops import NUMPY, Array, Ops
from fmicl_core.value import Value

LOG2 = math.log(2.0)


@dataclass(frozen=True, eq=False, repr=False)
class Divergence(Value):
    """Base class; a divergence of your own needs `score`, `score_slope` and `penalty`.

    Add `f` to plot and test it, `conjugate` (with `conjugate_slope` and `conjugate_domain`) to use
    it with a cosine similarity, `penalty_limit` and `excess` where the penalty tends to a constant,
    `excess_and_slope` when the two share work. Subclasses are frozen dataclasses, so that equal
    divergences compare equal, hash, pickle and print as they are made.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import FMICL, Divergence, fmicl_reference
        >>> class Cubic(Divergence):  # f(u) = (u^3 - 1) / 2
        ...     def score(self, L, ops):
        ...         return 1.5 * ops.exp(2 * L)
        ...     def score_slope(self, L, ops):
        ...         return 3 * ops.exp(2 * L)
        ...     def penalty(self, L, ops):
        ...         return ops.exp(3 * L) + 0.5
        >>> x, y = np.eye(3), np.roll(np.eye(3), 1, axis=0)
        >>> round(fmicl_reference(x, y, FMICL(Cubic(), alpha=8.0)).loss, 4)
        3.9924
    """

    #: Name in the registry.
    name: ClassVar[str] = ""
    #: False when the divergence collapses features (h is not strictly convex); using it warns.
    suitable: ClassVar[bool] = True

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        """Open interval of t on which f*(t) and its slope are finite."""
        return -math.inf, math.inf

    def f(self, u: Array) -> Array:
        """The generator on NumPy arrays u > 0; convex, 0 at u = 1."""
        raise NotImplementedError(f"{type(self).__name__} does not define f")

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        """Convex conjugate f*(t) = sup over u >= 0 of (u t - f(u)), inside its domain."""
        raise NotImplementedError(f"{type(self).__name__} does not define conjugate")

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        """Slope of f* in t, which is the u that attains the supremum."""
        raise NotImplementedError(f"{type(self).__name__} does not define conjugate_slope")

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        """f'(e^L), elementwise."""
        raise NotImplementedError(f"{type(self).__name__} does not define score")

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        """Slope of `score` in L, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} does not define score_slope")

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        """f*(f'(e^L)) = u f'(u) - f(u) at u = e^L, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} does not define penalty")

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        """Slope of `penalty` in L: e^L times the slope of the score."""
        return ops.exp(L) * self.score_slope(L, ops)

    @property
    def penalty_limit(self) -> float:
        """Limit of `penalty` for L -> -infinity, which is f*(f'(0)); 0 where there is none."""
        return 0.0

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        """penalty(L) - penalty_limit, elementwise; what a loss adds up over negative pairs.

        Most pairs are far apart. Their penalties then differ from the limit in digits that a sum of
        float32 numbers would lose, and the limit itself may be none of float32's numbers.
        """
        penalty, limit = self.penalty(L, ops), self.penalty_limit
        return penalty - limit if limit else penalty

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        """Both at once, for the one-pass gradient; equals (excess(L), penalty_slope(L)).

        Called without automatic differentiation, so arrays it made itself, not L, may be updated
        by `-=`, `*=` and `/=`: in place where arrays are mutable, which spares a pass through the
        cache.
        """
        # Apart, a step of KL, Pearson, Tsallis, Jeffreys takes PyTorch 4 to 20 % longer; XLA shares
        # the work by itself (tiled, float32, N = 4096, D = 128, one core of a Xeon).
        return self.excess(L, ops), self.penalty_slope(L, ops)

    def excess_total_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        """(sum of excess(L), penalty_slope(L)), given e^L < SUM_LOG_BOUND / 2.

        L may be overwritten.
        """
        excess, slope = self.excess_and_slope(L, ops)
        return ops.sum(excess), slope


@dataclass(frozen=True)
class KL(Divergence):
    """Kullback-Leibler: f(u) = u log u, f*(t) = e^(t - 1).

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import KL
        >>> L = np.log(2.0)  # u = 2
        >>> round(float(KL().score(L)), 4), round(float(KL().penalty(L)), 4)
        (1.6931, 2.0)
        >>> round(float(KL().conjugate(KL().score(L))), 4)  # the penalty is f* of the score
        2.0
    """

    name: ClassVar[str] = "kl"

    def f(self, u: Array) -> Array:
        return u * np.log(u)

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(t - 1.0)

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(t - 1.0)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return L + 1.0

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 0.0 * L + 1.0

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        u = ops.exp(L)
        return u, u


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """Jensen-Shannon: f(u) = u log u - (u + 1) log((u + 1)/2), f*(t) = -log(2 - e^t), t < log 2.

    Examples:
        >>> from fmicl_core import JensenShannon
        >>> js = JensenShannon()
        >>> round(float(js.score(20.0)), 4)  # never above log 2
        0.6931
        >>> round(float(js.penalty(-20.0)), 4)  # never below -log 2
        -0.6931
        >>> round(float(js.penalty(1.0)), 4), round(float(js.conjugate(js.score(1.0))), 4)  # f*(s)
        (0.6201, 0.6201)
    """

    name: ClassVar[str] = "js"

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, LOG2

    def f(self, u: Array) -> Array:
        return u * np.log(u) - (u + 1.0) * np.log((u + 1.0) / 2.0)

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return -ops.log1p(-ops.expm1(t))

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 1.0 / (2.0 * ops.exp(-t) - 1.0)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return LOG2 - ops.softplus(-L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.sigmoid(-L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.softplus(L) - LOG2

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.sigmoid(L)

    @property
    def penalty_limit(self) -> float:
        return -LOG2

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.softplus(L)

    def excess_total_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        # One exponential serves both, and logarithms are taken of products. Without this a step
        # takes 6 to 12 % longer in PyTorch, 15 to 19 % in JAX, no longer in TensorFlow (as above).
        return ops.sum_softplus_and_sigmoid(L)


@dataclass(frozen=True)
class Pearson(Divergence):
    """Pearson chi^2: f(u) = (u - 1)^2, f*(t) = t^2/4 + t for t >= -2, else -1.

    Examples:
        >>> from fmicl_core import Pearson
        >>> Pearson().f(3.0)
        4.0
        >>> Pearson().penalty_limit  # of pairs far apart
        -1.0
        >>> round(float(Pearson().conjugate(1.0)), 4)  # 1/4 + 1
        1.25
    """

    name: ClassVar[str] = "pearson"

    def f(self, u: Array) -> Array:
        return (u - 1.0) ** 2

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return ops.relu(0.5 * t + 1.0) ** 2 - 1.0

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return ops.relu(0.5 * t + 1.0)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 * ops.expm1(L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 * ops.exp(L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.expm1(2.0 * L)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 * ops.exp(2.0 * L)

    @property
    def penalty_limit(self) -> float:
        return -1.0

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(2.0 * L)

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        square = ops.exp(2.0 * L)
        return square, 2.0 * square


@dataclass(frozen=True)
class SquaredHellinger(Divergence):
    """Squared Hellinger: f(u) = (sqrt(u) - 1)^2, f*(t) = t/(1 - t), t < 1.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import SquaredHellinger
        >>> L = np.log(4.0)  # u = 4
        >>> d = SquaredHellinger()
        >>> round(float(d.score(L)), 4), round(float(d.penalty(L)), 4)
        (0.5, 1.0)
        >>> round(float(d.conjugate(d.score(L))), 4)  # the penalty is f* of the score
        1.0
    """

    name: ClassVar[str] = "squared_hellinger"

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, 1.0

    def f(self, u: Array) -> Array:
        return (np.sqrt(u) - 1.0) ** 2

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return t / (1.0 - t)

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 1.0 / (1.0 - t) ** 2

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return -ops.expm1(-0.5 * L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 0.5 * ops.exp(-0.5 * L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.expm1(0.5 * L)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 0.5 * ops.exp(0.5 * L)

    @property
    def penalty_limit(self) -> float:
        return -1.0

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(0.5 * L)

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        root = ops.exp(0.5 * L)
        return root, 0.5 * root


@dataclass(frozen=True)
class Tsallis(Divergence):
    """Tsallis of order q > 0, q != 1: f(u) = (u^q - 1)/(q - 1).

    f*(t) = ((q - 1) t/q)^(q/(q - 1)) + 1/(q - 1), for t < 0 where q < 1, for all t where q > 1
    (the power is 0 at t < 0). The paper prints u^q/(q - 1), whose f(1) is not 0, and does not state
    the order of its experiments; ours is a choice. Pearson differs from order 2 by a constant only.

    Args:
        order: order q of the power.

    Raises:
        ValueError: order is not a finite number > 0, or is 1 (the limit at 1 is `KL`).

    Examples:
        >>> from fmicl_core import Pearson, Tsallis
        >>> tsallis, pearson = Tsallis(order=2.0), Pearson()
        >>> round(float(tsallis.penalty(0.5) - pearson.penalty(0.5)), 4)
        2.0
        >>> round(float(tsallis.penalty(-0.5) - pearson.penalty(-0.5)), 4)  # the same constant
        2.0
    """

    name: ClassVar[str] = "tsallis"
    order: float = 1.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", check_positive("order", self.order))
        if self.order == 1.0:
            raise invalid(
                "order", "a number other than 1, where Tsallis becomes `KL()`", self.order
            )

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, (0.0 if self.order < 1.0 else math.inf)

    def f(self, u: Array) -> Array:
        return (u**self.order - 1.0) / (self.order - 1.0)

    def _maximiser(self, t: Array, ops: Ops, power: float) -> Array:
        q = self.order
        return ops.relu((q - 1.0) / q * t) ** (power / (q - 1.0))

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return self._maximiser(t, ops, self.order) + 1.0 / (self.order - 1.0)

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return self._maximiser(t, ops, 1.0)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        q = self.order
        return q / (q - 1.0) * ops.exp((q - 1.0) * L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return self.order * ops.exp((self.order - 1.0) * L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(self.order * L) + 1.0 / (self.order - 1.0)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return self.order * ops.exp(self.order * L)

    @property
    def penalty_limit(self) -> float:
        return 1.0 / (self.order - 1.0)

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(self.order * L)

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        power = ops.exp(self.order * L)
        return power, self.order * power


@dataclass(frozen=True)
class VinczeLeCam(Divergence):
    """Vincze-Le Cam: f(u) = (u - 1)^2/(u + 1), f*(t) = 4 - t - 4 sqrt(1 - t), t <= 1.

    Below t = -3 the conjugate is -1.
    The paper prints f*(f'(u)) = 3 - 4/(u + 1), off by up to 1: it must vanish at u = 1. Correct is
    3 - 8/(u + 1) + 4/(u + 1)^2. As a function of d^2 it is strictly convex near 0 only for mu < 2.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import VinczeLeCam
        >>> VinczeLeCam().f(1.0), float(VinczeLeCam().penalty(0.0))  # both vanish at u = 1
        (0.0, 0.0)
        >>> round(float(VinczeLeCam().penalty(np.log(3.0))), 4)
        1.25
        >>> 3 - 8 / (3 + 1) + 4 / (3 + 1) ** 2
        1.25
    """

    name: ClassVar[str] = "vlc"

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, 1.0

    def f(self, u: Array) -> Array:
        return (u - 1.0) ** 2 / (u + 1.0)

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return ops.relu(2.0 - (1.0 - t) ** 0.5) ** 2 - 1.0

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        root = (1.0 - t) ** 0.5
        return ops.relu(2.0 - root) / root

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        w = ops.sigmoid(L)
        return (2.0 * w - 1.0) * (3.0 - 2.0 * w)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 8.0 * ops.sigmoid(-L) ** 2 * ops.sigmoid(L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        # As a square, so that automatic differentiation has nothing to cancel far below L = 0.
        return 4.0 * ops.sigmoid(L) ** 2 - 1.0

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 8.0 * ops.sigmoid(-L) * ops.sigmoid(L) ** 2

    @property
    def penalty_limit(self) -> float:
        return -1.0

    def excess(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 4.0 * ops.sigmoid(L) ** 2

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        s = ops.sigmoid(L)
        s *= 2.0
        excess = s * s
        slope = 2.0 - s
        slope *= excess
        return excess, slope


@dataclass(frozen=True)
class Jeffreys(Divergence):
    """Jeffreys: f(u) = (u - 1) log u, f*(t) = w + 1/w + t - 2 with w = LambertW(e^(1 - t)).

    Examples:
        >>> from fmicl_core import KL, Jeffreys, ReverseKL
        >>> round(float(Jeffreys().f(2.0)), 4)
        0.6931
        >>> round(float(KL().f(2.0) + ReverseKL().f(2.0)), 4)  # both directions of KL
        0.6931
    """

    name: ClassVar[str] = "jeffreys"

    def f(self, u: Array) -> Array:
        return (u - 1.0) * np.log(u)

    @staticmethod
    def _lambert(t: Array, ops: Ops) -> Array:
        # Newton's method on w + log w = 1 - t; from softplus, five steps reach double precision.
        z = 1.0 - t
        w = ops.softplus(z)
        for _ in range(5):
            w = w * (1.0 + z - ops.log(w)) / (1.0 + w)
        return w

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        w = self._lambert(t, ops)
        return w + 1.0 / w + t - 2.0

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 1.0 / self._lambert(t, ops)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return L - ops.expm1(-L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 1.0 + ops.exp(-L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.expm1(L) + L

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L) + 1.0

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        u = ops.exp(L)
        return u - 1.0 + L, u + 1.0


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """Reverse KL: f(u) = -log u, f*(t) = -1 - log(-t), t < 0; for study only, features collapse.

    h(d^2) = f*(f'(G)) is linear in d^2: any centred configuration minimises it.

    Examples:
        >>> from fmicl_core import KL, ReverseKL
        >>> ReverseKL().suitable
        False
        >>> [float(ReverseKL().penalty(L)) for L in (-2.0, -1.0, 0.0)]  # linear in L, so in d^2
        [-3.0, -2.0, -1.0]
        >>> round(float(ReverseKL().f(2.0)), 4)
        -0.6931
        >>> round(float(2.0 * KL().f(1 / 2.0)), 4)  # u f(1/u) of KL
        -0.6931
    """

    name: ClassVar[str] = "reverse_kl"
    suitable: ClassVar[bool] = False

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, 0.0

    def f(self, u: Array) -> Array:
        return -np.log(u)

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return -1.0 - ops.log(-t)

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return -1.0 / t

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return -ops.exp(-L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(-L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return L - 1.0

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 0.0 * L + 1.0


@dataclass(frozen=True)
class Neyman(Divergence):
    """Neyman chi^2: f(u) = (1 - u)^2/u, f*(t) = 2 - 2 sqrt(1 - t), t <= 1; for study, collapses.

    h(d^2) = f*(f'(G)) is concave in d^2, so that collapsed features minimise it.

    Examples:
        >>> from fmicl_core import Neyman, Pearson
        >>> Neyman().suitable
        False
        >>> Neyman().f(4.0), 4.0 * Pearson().f(1 / 4.0)  # u f(1/u) of Pearson
        (2.25, 2.25)
    """

    name: ClassVar[str] = "neyman"
    suitable: ClassVar[bool] = False

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -math.inf, 1.0

    def f(self, u: Array) -> Array:
        return (1.0 - u) ** 2 / u

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 - 2.0 * (1.0 - t) ** 0.5

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return (1.0 - t) ** -0.5

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return -ops.expm1(-2.0 * L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 * ops.exp(-2.0 * L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return -2.0 * ops.expm1(-L)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return 2.0 * ops.exp(-L)


@dataclass(frozen=True)
class Ratio(Divergence):
    """No divergence of its own: penalises a score t by u = f*'(t) of another, for values alone.

    Args:
        of: the divergence f.
    """

    of: Divergence = KL()

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return self.of.conjugate_domain

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return self.of.conjugate_slope(t, ops)

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 0.0 * t  # none: sweeps over tiles ask for it, and nothing is made of it


#: Every divergence by name.
DIVERGENCES: dict[str, type[Divergence]] = {
    cls.name: cls
    for cls in (
        KL, JensenShannon, Pearson, SquaredHellinger, Tsallis, VinczeLeCam, Jeffreys,
        ReverseKL, Neyman,
    )
}  # fmt: skip


def get_divergence(divergence: str | Divergence, **options: Any) -> Divergence:
    """Return the divergence of that name, or the divergence itself.

    Args:
        divergence: name in `DIVERGENCES`, which may have "-" in the place of "_", or an instance of
            `Divergence`.
        options: fields of the named divergence, such as `order` of Tsallis.

    Raises:
        ValueError: the name is unknown (the message lists the names).

    Examples:
        >>> from fmicl_core import get_divergence
        >>> get_divergence("squared-hellinger")
        SquaredHellinger()
        >>> get_divergence("tsallis", order=2.0)
        Tsallis(order=2.0)
    """
    if isinstance(divergence, Divergence):
        return divergence
    return DIVERGENCES[check_name("divergence", divergence, DIVERGENCES)](**options)
