"""FMICL: the frozen, validated settings of the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from fmicl_core.checks import check_choice, check_positive, check_scalar, invalid
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
    #: Of alpha = "auto".
    strength: float = 5.0


#: What `alpha` is where it is found from the batch.
AUTO = "auto"
DEFAULTS = Defaults()
#: What a loss keeps as it was made; the others, `SCALARS`, may change.
FIXED = ("divergence", "similarity", "negatives", "normalize", "positives", "objective")
#: What of a loss may be an array of no dimension, and learn.
SCALARS = ("alpha", "logit_scale", "logit_bias")


def number_for(name: str, value: Any, is_array: bool) -> Any:
    """The value of a scalar in `SCALARS`, or where it is an array a number that stands for it.

    Settings hold numbers; what is compiled by them must not depend on that of an array.
    """
    return (
        {"alpha": DEFAULTS.alpha, "logit_scale": 1.0, "logit_bias": 0.0}[name]
        if is_array
        else value
    )


def check_auto(alpha: Any, strength: Any) -> bool:
    """Whether alpha is to be found from the batch.

    Raises:
        ValueError: alpha is another text than "auto", or a strength is given beside a number.
    """
    if isinstance(alpha, str):
        if alpha != AUTO:
            raise invalid("alpha", f"a finite number > 0 or {AUTO!r}", alpha)
        return True
    if strength is not None:
        raise invalid("strength", f"None unless alpha={AUTO!r}", strength)
    return False


@dataclass(frozen=True)
class FMICL:
    """Settings of the f-MICL loss (the objective of Lu et al. 2023, to minimise).

    loss = - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s)

    Args:
        divergence: name or `Divergence`.
        similarity: name or `Similarity`.
        alpha: weight > 0 of the negative term; or "auto", strength / mean of u over the negative
            pairs, the weight at which u = e^L (of a cosine u = f*'(s)) with that strength 1 is a
            ratio of densities, p(x, y) / (p(x) p(y)), whose mean over independent pairs is 1. It is
            found from each batch and not differentiated.
        negatives: scheme of negatives: "anchor" {(x_i, x_j), i != j}, the printed equation;
            "within", "anchor" averaged with its twin on y; "cross" {(x_i, y_j), i != j}; "all"
            pairs of different samples among both views.
        normalize: whether rows are scaled to unit length first; a zero row stays zero.
        positives: pairs of rows with equal ids that are positive: "ids", every one; "pair", (x_i,
            y_i) alone, so that other rows with that id are neither positive nor negative.
        logit_scale: factor > 0 of x . y in z = logit_scale (x . y) + logit_bias, where z is the
            Gaussian's L, or the score of the cosine; None: that of the similarity.
        logit_bias: constant of z; None: that of the similarity. Where one of the two is given,
            lengths of rows do not count, whether they are normalised or not.
        strength: factor > 0 of alpha = "auto"; None: `DEFAULTS.strength`, or with a number alpha
            nothing.

    Raises:
        ValueError: an option is unknown or out of range, or a cosine leaves the domain of f*.

    Warns:
        UserWarning: the divergence is known to collapse features.

    Examples:
        >>> from fmicl_core import FMICL
        >>> objective = FMICL("js", alpha=8.0)
        >>> objective.divergence, objective.similarity
        (JensenShannon(), Gaussian(sigma2=0.5, mu=1.0))
        >>> objective == FMICL("js", "gaussian", 8.0)
        True
        >>> FMICL(alpha="auto").strength
        5.0
    """

    divergence: Divergence | str = DEFAULTS.divergence
    similarity: Similarity | str = DEFAULTS.similarity
    alpha: float | str = DEFAULTS.alpha
    negatives: str = DEFAULTS.negatives
    normalize: bool = DEFAULTS.normalize
    positives: str = DEFAULTS.positives
    logit_scale: float | None = None
    logit_bias: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergence", get_divergence(self.divergence))
        object.__setattr__(self, "similarity", get_similarity(self.similarity))
        if not check_auto(self.alpha, self.strength):
            object.__setattr__(self, "alpha", check_positive("alpha", self.alpha))
        elif self.strength is None:
            object.__setattr__(self, "strength", DEFAULTS.strength)
        else:
            object.__setattr__(self, "strength", check_positive("strength", self.strength))
        check_choice("negatives", self.negatives, NEGATIVES)
        check_choice("positives", self.positives, POSITIVES)
        for name in ("logit_scale", "logit_bias"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_scalar(name, getattr(self, name), None))
        _ = self.pairwise  # checks that the options go together

    @cached_property
    def pairwise(self) -> Pairwise:
        """What one pair contributes: these settings without alpha and which pairs count."""
        critic = self.critic.learned(self.generator) if self.logits else self.critic
        return Pairwise(self.generator, critic, self.normalize)

    @property
    def logits(self) -> tuple[float, float] | None:
        """(logit_scale, logit_bias), of which one may be the similarity's; None without either."""
        if self.logit_scale is None and self.logit_bias is None:
            return None
        return self.critic.logits(self.logit_scale, self.logit_bias)

    @property
    def generator(self) -> Divergence:
        """The divergence as an object."""
        return get_divergence(self.divergence)

    @property
    def critic(self) -> Similarity:
        """The similarity as an object."""
        return get_similarity(self.similarity)

    def listed(self, **more: object) -> str:
        """The options, and some more, but None, as they would be pasted between brackets."""
        every = {field.name: getattr(self, field.name) for field in fields(self)} | more
        return ", ".join(f"{name}={value!r}" for name, value in every.items() if value is not None)

    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c; see `Pairwise.coefficients`."""
        if self.logits is None:
            return self.pairwise.coefficients()
        return self.logits[0], 0.0, self.logits[1]

    def positive(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Score of positive pairs, elementwise in z."""
        return self.pairwise.positive(z, ops)

    def negative(self, z: Array, ops: Ops = NUMPY) -> Array:
        """Penalty of negative pairs, elementwise in z."""
        return self.pairwise.negative(z, ops)
