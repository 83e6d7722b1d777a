"""Well-known losses by their names: settings of f-MICL or InfoNCE, and their float64 references.

SigLIP and kernel contrastive learning are f-MICL with a divergence that is made for them here.
CLIP, the decoupled contrastive loss and DHEL are InfoNCE with another choice of softmaxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fmicl_core.checks import check_positive, invalid
from fmicl_core.divergences import Divergence, JensenShannon
from fmicl_core.objective import FMICL
from fmicl_core.ops import NUMPY, Array, Ops
from fmicl_core.pairs import pairs_of
from fmicl_core.reference import checked_arrays, equal_ids, fmicl_reference, normalize_rows
from fmicl_core.related import info_nce_reference
from fmicl_core.similarities import Gaussian, Similarity


class FamilyDefaults(NamedTuple):
    """Default options of the losses by name in every backend; those of their papers or authors."""

    siglip_scale: float = 10.0
    siglip_bias: float = -10.0
    clip_scale: float = 1.0 / 0.07
    #: What a learned scale of CLIP is held below.
    clip_scale_limit: float = 100.0
    dcl_temperature: float = 0.1
    dcl_negatives: str = "all"
    dhel_temperature: float = 0.3
    dhel_negatives: str = "anchor"
    kcl_similarity: Similarity = Gaussian(0.25)
    kcl_alpha: float = 16.0
    kcl_negatives: str = "anchor"
    normalize: bool = True
    positives: str = "ids"


FAMILY_DEFAULTS = FamilyDefaults()


@dataclass(frozen=True)
class Sigmoid(JensenShannon):
    """Jensen-Shannon without its constants, f(u) = u log u - (u + 1) log(u + 1).

    Its score log(sigmoid(L)) and its penalty -log(sigmoid(-L)) are the terms of SigLIP. f(1) is not
    0, so that a loss of it is no bound on any information; its gradient is that of Jensen-Shannon.
    """

    name: ClassVar[str] = ""
    penalty_limit = 0.0

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -np.inf, 0.0

    def f(self, u: Array) -> Array:
        return u * np.log(u) - (u + 1.0) * np.log(u + 1.0)

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return -ops.log(-ops.expm1(t))

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 1.0 / ops.expm1(-t)

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return -ops.softplus(-L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.softplus(L)


@dataclass(frozen=True)
class KernelContrast(Divergence):
    """The kernel itself as score and as penalty: s = G(x, y) and f*(s) = s.

    f*(t) = t for |t| <= 1/2 is the conjugate of the total variation, f(u) = |u - 1| / 2, whose own
    score f'(u) = +-1/2 has no gradient. Kernel contrastive learning takes the critic G - 1/2, of
    which the constant is left out here.
    """

    def f(self, u: Array) -> Array:
        return 0.5 * np.abs(u - 1.0)

    @property
    def conjugate_domain(self) -> tuple[float, float]:
        return -0.5, 0.5

    def conjugate(self, t: Array, ops: Ops = NUMPY) -> Array:
        return t

    def conjugate_slope(self, t: Array, ops: Ops = NUMPY) -> Array:
        return 0.0 * t + 1.0

    def score(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def score_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def penalty(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def penalty_slope(self, L: Array, ops: Ops = NUMPY) -> Array:
        return ops.exp(L)

    def excess_and_slope(self, L: Array, ops: Ops = NUMPY) -> tuple[Array, Array]:
        u = ops.exp(L)
        return u, u


def siglip_reference(
    x: Any,
    y: Any = None,
    logit_scale: float = FAMILY_DEFAULTS.siglip_scale,
    logit_bias: float = FAMILY_DEFAULTS.siglip_bias,
    ids: Any = None,
    positives: str = FAMILY_DEFAULTS.positives,
    normalize: bool = FAMILY_DEFAULTS.normalize,
) -> float:
    """SigLIP: -(1/N) (sum of log sigmoid(L) over positive, of log sigmoid(-L) over negative pairs).

    L = logit_scale (x . y) + logit_bias. With ids every pair (x_i, y_j) with equal ids is positive,
    or with positives="pair" left out, but for i = j. Zhai et al. (2023), algorithm 1.
    """
    pairs = pairs_of("cross", positives, y, None, ids, None)
    raw = checked_arrays(x, y, None, ids is not None)
    rows = {k: v.astype(np.float64) for k, v in raw.items()}
    rows = {k: normalize_rows(v) for k, v in rows.items()} if normalize else rows
    L = logit_scale * (rows["x"] @ rows["y"].T) + logit_bias
    equal = equal_ids(rows, ids, None)["x", "y"]
    positive = equal if pairs.positives == "ids" else np.eye(len(L), dtype=bool)
    total = NUMPY.softplus(-L[positive]).sum() + NUMPY.softplus(L[~equal]).sum()
    return float(total / len(L))


def check_clip_scale(value: Any) -> float:
    """Return the scale that a module of CLIP starts with, as a float.

    Raises:
        ValueError: it is no finite number > 0, or above the limit that the scale is held at.
    """
    limit = FAMILY_DEFAULTS.clip_scale_limit
    if (scale := check_positive("logit_scale", value)) > limit:
        raise invalid("logit_scale", f"a number <= {limit:g}, at which the scale is held", value)
    return scale


def clip_reference(
    x: Any,
    y: Any = None,
    logit_scale: float = FAMILY_DEFAULTS.clip_scale,
    ids: Any = None,
    positives: str = FAMILY_DEFAULTS.positives,
    normalize: bool = FAMILY_DEFAULTS.normalize,
) -> float:
    """CLIP: the mean of InfoNCE from x to y and from y to x (Radford et al. 2021, fig. 3)."""
    options = {"negatives": "cross", "normalize": normalize, "positives": positives, "ids": ids}
    return info_nce_reference(x, y, logit_scale=logit_scale, symmetric=True, **options)


def dcl_reference(
    x: Any,
    y: Any = None,
    temperature: float = FAMILY_DEFAULTS.dcl_temperature,
    negatives: str = FAMILY_DEFAULTS.dcl_negatives,
    **options: Any,
) -> float:
    """Decoupled contrastive: InfoNCE with negatives alone in its softmaxes (Yeh et al. 2022)."""
    return info_nce_reference(x, y, temperature, negatives, decoupled=True, **options)


def dhel_reference(
    x: Any, y: Any = None, temperature: float = FAMILY_DEFAULTS.dhel_temperature, **options: Any
) -> float:
    """DHEL: the decoupled loss whose negatives are rows of x (Koromilas et al. 2024)."""
    return dcl_reference(x, y, temperature, FAMILY_DEFAULTS.dhel_negatives, **options)


def kcl_reference(
    x: Any,
    y: Any = None,
    similarity: Similarity | str = FAMILY_DEFAULTS.kcl_similarity,
    alpha: float = FAMILY_DEFAULTS.kcl_alpha,
    negatives: str = FAMILY_DEFAULTS.kcl_negatives,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
    **arrays: Any,
) -> float:
    """Kernel contrastive loss: -mean of G over positive pairs + alpha * mean over negative pairs.

    Koromilas et al. (2024).
    """
    objective = FMICL(
        KernelContrast(), similarity, alpha, negatives,
        logit_scale=logit_scale, logit_bias=logit_bias,
    )  # fmt: skip
    return fmicl_reference(x, y, objective, **arrays).loss
