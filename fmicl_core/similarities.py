"""Similarities: how a pair of features becomes the number a divergence is applied to.

Every similarity starts from one affine number per pair, so that one matrix product serves all:

    z = a (x . y) + b (|x|^2 + |y|^2) + c

A kernel similarity turns z into L = log G(x, y) and scores s = f'(G) (the f-Gaussian of Lu et al.
2023, and further kernels of the squared distance); the cosine takes z as the critic
itself and needs the conjugate f*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from fmicl_core.checks import check_name, check_positive, invalid
from fmicl_core.divergences import KL, Divergence, Ratio
from fmicl_core.ops import SUM_LOG_BOUND, Array, Ops
from fmicl_core.value import Value


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(Value):
    """Base class: z per pair, and what a divergence makes of z on either kind of pair.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import Gaussian, Similarity
        >>> x, y = np.array([1.0, 0.0]), np.array([0.8, 0.6])
        >>> isinstance(Gaussian(), Similarity)
        True
        >>> a, b, c = Gaussian().coefficients()
        >>> round(float(a * (x @ y) + b * (x @ x + y @ y) + c), 4)  # z = -|x - y|^2 of the Gaussian
        -0.4
    """

    name: ClassVar[str] = ""

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c."""
        raise NotImplementedError(f"{type(self).__name__} does not define coefficients")

    def check(self, divergence: Divergence, normalize: bool) -> None:
        """Raise ValueError when the divergence is undefined for scores of this similarity."""

    def positive(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        """Score s of a positive pair."""
        raise NotImplementedError(f"{type(self).__name__} does not define positive")

    def positive_slope(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        """Slope of `positive` in z."""
        raise NotImplementedError(f"{type(self).__name__} does not define positive_slope")

    def negative(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        """Penalty f*(s) of a negative pair."""
        raise NotImplementedError(f"{type(self).__name__} does not define negative")

    def limit(self, divergence: Divergence) -> float:
        """What the penalty of a negative pair tends to as it moves apart; 0 where not finite."""
        return 0.0

    def excess(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        """Penalty of a negative pair, less the limit."""
        penalty, limit = self.negative(divergence, z, ops), self.limit(divergence)
        return penalty - limit if limit else penalty

    def excess_and_slope(self, divergence: Divergence, z: Array, ops: Ops) -> tuple[Array, Array]:
        """The excess of a negative pair and its slope in z, sharing their work."""
        raise NotImplementedError(f"{type(self).__name__} does not define excess_and_slope")

    def excess_total_and_slope(
        self, divergence: Divergence, z: Array, ops: Ops, bounded: bool = False
    ) -> tuple[Array, Array]:
        """Sum of the excesses of all pairs in z, and the slope per pair.

        `bounded` says that e^z is known to be below SUM_LOG_BOUND / 2.
        """
        excess, slope = self.excess_and_slope(divergence, z, ops)
        return ops.sum(excess), slope

    def ratio(self, divergence: Divergence) -> Divergence:
        """What penalises a pair by its u, the ratio of densities that its score stands for."""
        return KL()  # of a kernel, u = e^L

    def learned(self, divergence: Divergence) -> Similarity:
        """What it becomes beside `logit_scale` and `logit_bias`: z = x . y + bias.

        The rows then carry the square root of the scale.

        Raises:
            ValueError: it is none whose logit is z, or a cosine could leave the domain of f*.
        """
        expected = "'gaussian' or 'cosine' beside `logit_scale` and `logit_bias`"
        raise invalid("similarity", expected, self)

    def logits(self, scale: Any = None, bias: Any = None) -> tuple[Any, Any]:
        """(logit_scale, logit_bias), each its own on unit features where None is given."""
        a, b, c = self.coefficients()
        return a if scale is None else scale, c + 2.0 * b if bias is None else bias


@dataclass(frozen=True)
class Logit(Similarity):
    """L = z = x . y + bias: the f-Gaussian whose scale is in the rows, and whose bias is given.

    It is what `logit_scale` and `logit_bias` make of the Gaussian. No bound of L is known.
    """

    def coefficients(self) -> tuple[float, float, float]:
        return 1.0, 0.0, 0.0

    def learned(self, divergence: Divergence) -> Similarity:
        return Logit()

    def positive(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.score(z, ops)

    def positive_slope(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.score_slope(z, ops)

    def negative(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.penalty(z, ops)

    def limit(self, divergence: Divergence) -> float:
        return divergence.penalty_limit

    def excess(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.excess(z, ops)

    def excess_and_slope(self, divergence: Divergence, z: Array, ops: Ops) -> tuple[Array, Array]:
        return divergence.excess_and_slope(z, ops)

    def excess_total_and_slope(
        self, divergence: Divergence, z: Array, ops: Ops, bounded: bool = False
    ) -> tuple[Array, Array]:
        if bounded:
            return divergence.excess_total_and_slope(z, ops)
        return super().excess_total_and_slope(divergence, z, ops)


@dataclass(frozen=True)
class Gaussian(Logit):
    """f-Gaussian: s = f'(G), G = mu exp(-|x - y|^2 / (2 sigma2)), so z = L = log G.

    Args:
        sigma2: variance sigma^2 > 0 in squared units of the features; 1/(2 sigma2) = 1 by default.
        mu: height > 0. Weight alpha at mu = 1 is another divergence, alpha f(u/alpha) - alpha
            f(1/alpha), at mu = alpha.

    Raises:
        ValueError: sigma2 or mu is not a finite number > 0.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import Gaussian
        >>> x, y = np.array([1.0, 0.0]), np.array([0.8, 0.6])
        >>> a, b, c = Gaussian(sigma2=0.25).coefficients()
        >>> z = a * (x @ y) + b * (x @ x + y @ y) + c
        >>> round(float(np.exp(z)), 4)  # G
        0.4493
        >>> round(float(np.exp(-0.4 / (2 * 0.25))), 4)  # |x - y|^2 = 0.4
        0.4493
    """

    name: ClassVar[str] = "gaussian"
    sigma2: float = 0.5
    mu: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma2", check_positive("sigma2", self.sigma2))
        object.__setattr__(self, "mu", check_positive("mu", self.mu))

    def coefficients(self) -> tuple[float, float, float]:
        rate = 1.0 / self.sigma2
        return rate, -0.5 * rate, math.log(self.mu)

    def excess_total_and_slope(
        self, divergence: Divergence, z: Array, ops: Ops, bounded: bool = False
    ) -> tuple[Array, Array]:
        bounded = bounded or self.mu < SUM_LOG_BOUND / 2
        return super().excess_total_and_slope(divergence, z, ops, bounded)


@dataclass(frozen=True)
class DistanceKernel(Similarity):
    """Base class for kernels of the squared distance: z = |x - y|^2, L = log_kernel(z).

    A kernel of your own needs `log_kernel` and `log_kernel_slope`.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import FMICL, DistanceKernel, fmicl_reference
        >>> class Quartic(DistanceKernel):  # G = exp(-d^4)
        ...     def log_kernel(self, d2, ops):
        ...         return -d2 * d2
        ...     def log_kernel_slope(self, d2, ops):
        ...         return -2 * d2
        >>> x, y = np.eye(3), np.roll(np.eye(3), 1, axis=0)
        >>> round(fmicl_reference(x, y, FMICL(similarity=Quartic())).score, 4)  # 1 - 2^2
        -3.0
    """

    def log_kernel(self, d2: Array, ops: Ops) -> Array:
        """L = log G as a function of the squared distance d2 >= 0, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} does not define log_kernel")

    def log_kernel_slope(self, d2: Array, ops: Ops) -> Array:
        """Slope of `log_kernel` in d2, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} does not define log_kernel_slope")

    def coefficients(self) -> tuple[float, float, float]:
        return -2.0, 1.0, 0.0

    def positive(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.score(self.log_kernel(ops.relu(z), ops), ops)

    def positive_slope(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        d2 = ops.relu(z)  # rounding can leave a squared distance just below 0
        slope = divergence.score_slope(self.log_kernel(d2, ops), ops)
        return slope * self.log_kernel_slope(d2, ops)

    def negative(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.penalty(self.log_kernel(ops.relu(z), ops), ops)

    def limit(self, divergence: Divergence) -> float:
        return divergence.penalty_limit

    def excess(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.excess(self.log_kernel(ops.relu(z), ops), ops)

    def excess_and_slope(self, divergence: Divergence, z: Array, ops: Ops) -> tuple[Array, Array]:
        d2 = ops.relu(z)
        excess, slope = divergence.excess_and_slope(self.log_kernel(d2, ops), ops)
        return excess, slope * self.log_kernel_slope(d2, ops)


@dataclass(frozen=True)
class Laplace(DistanceKernel):
    """Laplace kernel: G = mu exp(-sqrt(|x - y|^2 + softening^2) / scale).

    Args:
        scale: length > 0 in units of the features.
        mu: height > 0.
        softening: length > 0 that rounds the tip at distance 0, where the gradient has a jump.

    Raises:
        ValueError: an argument is not a finite number > 0.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import NUMPY, Laplace
        >>> L = Laplace(scale=2.0).log_kernel(4.0, NUMPY)  # of the squared distance 4
        >>> round(float(np.exp(L)), 4)  # G
        0.3679
        >>> round(float(np.exp(-2 / 2)), 4)  # exp(-distance / scale)
        0.3679
    """

    name: ClassVar[str] = "laplace"
    scale: float = 1.0
    mu: float = 1.0
    softening: float = 0.01

    def __post_init__(self) -> None:
        for field in ("scale", "mu", "softening"):
            object.__setattr__(self, field, check_positive(field, getattr(self, field)))

    def log_kernel(self, d2: Array, ops: Ops) -> Array:
        return math.log(self.mu) - (d2 + self.softening**2) ** 0.5 / self.scale

    def log_kernel_slope(self, d2: Array, ops: Ops) -> Array:
        return (-0.5 / self.scale) * (d2 + self.softening**2) ** -0.5


@dataclass(frozen=True)
class Cauchy(DistanceKernel):
    """Cauchy (Student t, as in t-SNE) kernel: G = mu / (1 + |x - y|^2 / scale^2).

    Args:
        scale: length > 0 in units of the features.
        mu: height > 0.

    Raises:
        ValueError: an argument is not a finite number > 0.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import NUMPY, Cauchy
        >>> L = Cauchy(scale=2.0).log_kernel(4.0, NUMPY)  # of the squared distance 4
        >>> round(float(np.exp(L)), 4)  # 1 / (1 + 4 / 2^2)
        0.5
    """

    name: ClassVar[str] = "cauchy"
    scale: float = 1.0
    mu: float = 1.0

    def __post_init__(self) -> None:
        for field in ("scale", "mu"):
            object.__setattr__(self, field, check_positive(field, getattr(self, field)))

    def log_kernel(self, d2: Array, ops: Ops) -> Array:
        return math.log(self.mu) - ops.log1p(d2 / self.scale**2)

    def log_kernel_slope(self, d2: Array, ops: Ops) -> Array:
        return -1.0 / (d2 + self.scale**2)


@dataclass(frozen=True)
class Cosine(Similarity):
    """Cosine critic: s = x . y / temperature, with f*(s) on negative pairs.

    On unit features s lies in [-1/temperature, 1/temperature], which must be inside the domain of
    f*; Jensen-Shannon needs temperature > 1/log 2 = 1.4427, squared Hellinger and Vincze-Le Cam
    need temperature > 1.

    Args:
        temperature: temperature > 0 that scores are divided by.

    Raises:
        ValueError: temperature is not a finite number > 0.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import KL, NUMPY, Cosine
        >>> s = 0.8 / 0.5  # x . y / temperature
        >>> critic = Cosine(temperature=0.5)
        >>> float(critic.positive(KL(), s, NUMPY))
        1.6
        >>> round(float(critic.negative(KL(), s, NUMPY)), 4)  # f*(s)
        1.8221
        >>> round(float(np.exp(s - 1)), 4)
        1.8221
    """

    name: ClassVar[str] = "cosine"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", check_positive("temperature", self.temperature))

    def coefficients(self) -> tuple[float, float, float]:
        return 1.0 / self.temperature, 0.0, 0.0

    def check(self, divergence: Divergence, normalize: bool) -> None:
        low, high = divergence.conjugate_domain
        reach = 1.0 / self.temperature if normalize else math.inf
        if low < -reach <= reach < high or (low, high) == (-math.inf, math.inf):
            return
        domain = _domain(divergence)
        if not normalize:
            expected, range_ = "'gaussian'", "without normalize=True a cosine score is unbounded"
        elif high > 0:
            bound = 1.0 / min(high, -low)
            expected = f"a cosine temperature > {bound:.4f} for this divergence, or 'gaussian'"
            range_ = f"cosine scores reach {reach:g}"
        else:
            expected, range_ = "'gaussian'", "cosine scores are positive for similar features"
        raise invalid("similarity", expected, self, why=f"{domain}, and {range_}.")

    def learned(self, divergence: Divergence) -> Similarity:
        if divergence.conjugate_domain != (-math.inf, math.inf):
            expected = "'gaussian' beside `logit_scale` and `logit_bias` and this divergence"
            why = f"{_domain(divergence)}, and a learned scale has no bound."
            raise invalid("similarity", expected, self, why=why)
        return Cosine()

    def positive(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return z

    def positive_slope(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return 0.0 * z + 1.0

    def negative(self, divergence: Divergence, z: Array, ops: Ops) -> Array:
        return divergence.conjugate(z, ops)

    def excess_and_slope(self, divergence: Divergence, z: Array, ops: Ops) -> tuple[Array, Array]:
        return divergence.conjugate(z, ops), divergence.conjugate_slope(z, ops)

    def ratio(self, divergence: Divergence) -> Divergence:
        return divergence if isinstance(divergence, KL) else Ratio(divergence)


def _domain(divergence: Divergence) -> str:
    """Where the conjugate can be taken, as messages say it."""
    low, high = divergence.conjugate_domain
    return f"The conjugate of {divergence!r} is finite only for scores in ({low:g}, {high:g})"


#: Every similarity by name.
SIMILARITIES: dict[str, type[Similarity]] = {
    cls.name: cls for cls in (Gaussian, Cosine, Laplace, Cauchy)
}


def get_similarity(similarity: str | Similarity, **options: Any) -> Similarity:
    """Return the similarity of that name, or the similarity itself.

    Args:
        similarity: name in `SIMILARITIES`, or an instance of `Similarity`.
        options: fields of the named similarity, such as `sigma2` of the Gaussian.

    Raises:
        ValueError: the name is unknown (the message lists the names).

    Examples:
        >>> from fmicl_core import get_similarity
        >>> get_similarity("gaussian", sigma2=0.1)
        Gaussian(sigma2=0.1, mu=1.0)
        >>> get_similarity("cosine")
        Cosine(temperature=1.0)
    """
    if isinstance(similarity, Similarity):
        return similarity
    return SIMILARITIES[check_name("similarity", similarity, SIMILARITIES)](**options)
