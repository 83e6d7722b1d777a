"""The losses that f-MICL generalises, in float64 NumPy: InfoNCE, alignment-uniformity, spectral.

Like `fmicl_core.reference`, these are the truth the backends are tested against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import check_bool, check_positive, invalid, no_negatives, no_positives
from fmicl_core.forms import check_implementation
from fmicl_core.pairs import POSITIVES, Block, Pairs, pairs_of
from fmicl_core.reference import Matrix, checked_arrays, equal_ids, normalize_rows


class RelatedDefaults(NamedTuple):
    """Default options of the related losses in every backend."""

    temperature: float = 0.5
    negatives: str = "all"
    exponent: float = 2.0
    t: float = 2.0
    uniformity_weight: float = 1.0
    normalize: bool = True
    positives: str = POSITIVES[0]


RELATED_DEFAULTS = RelatedDefaults()

#: The anchors of InfoNCE and the pools its negatives come from. Every anchor has one softmax over
#: its positives and all of its negatives.
ANCHORS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "anchor": (("x", ("x",)),),
    "within": (("x", ("x",)), ("y", ("y",))),
    "cross": (("x", ("y",)),),
    "all": (("x", ("x", "y")), ("y", ("y", "x"))),
}
#: Those of CLIP: "cross" in both directions.
SYMMETRIC = (("x", ("y",)), ("y", ("x",)))


def info_nce_anchors(pairs: Pairs) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Pairs (anchor view, pools of negatives); the loss averages over the anchor views."""
    if pairs.has_bank:
        return (("x", ("bank",)),)
    if pairs.symmetric:
        return SYMMETRIC
    return ANCHORS["anchor" if pairs.single else pairs.negatives]


class SoftmaxBlock(NamedTuple):
    """Pairs (left_i, right_j) that stand in the softmaxes of the left rows.

    Args:
        block: names of the two arrays; the diagonal of two views is left out.
        both: whether the right rows are anchors, too, and the pairs stand in their softmaxes.
        which: pairs that count, by the ids of their rows: "every", "different" or "equal".
    """

    block: Block
    both: bool
    which: str


def info_nce_blocks(pairs: Pairs, has_ids: bool) -> tuple[SoftmaxBlock, ...]:
    """The softmaxes of InfoNCE with every pair once, but the pairs (x_i, y_i).

    Negatives are rows with different ids; positives, rows with equal ids, stand in the denominator
    beside them. Where both come from the same array all of its rows count, whatever their ids.
    Decoupled, no positive stands anywhere.
    """
    anchors = {name for name, _ in info_nce_anchors(pairs)}
    sides = {(b.left, b.right) for b in pairs.positive_blocks}
    negatives = {(b.left, b.right): b for b in pairs.negative_blocks}
    softmaxes = [
        SoftmaxBlock(
            block,
            block.right in anchors,
            "different" if has_ids and (pairs.decoupled or at not in sides) else "every",
        )
        for at, block in negatives.items()
    ]
    if not has_ids or pairs.decoupled:
        return tuple(softmaxes)
    more = [b for b in pairs.positive_blocks if (b.left, b.right) not in negatives]
    return (*softmaxes, *(SoftmaxBlock(b, b.right in anchors, "equal") for b in more))


def info_nce_positives(pairs: Pairs) -> dict[str, tuple[str, ...]]:
    """For every anchor view the arrays that hold its positives: rows with equal ids."""
    return {
        name: tuple(
            b.right if b.left == name else b.left
            for b in pairs.positive_blocks
            if name in (b.left, b.right)
        )
        for name, _ in info_nce_anchors(pairs)
    }


#: What an object of InfoNCE is made with.
INFO_NCE_OPTIONS = ("temperature", "negatives", "normalize", "positives", "implementation")


def one_scale(
    temperature: Any, logit_scale: Any, default: float = RELATED_DEFAULTS.temperature
) -> tuple[str, Any]:
    """Which of the two factors of the scores was given, by its name, and its value.

    Args:
        temperature: value of the argument `temperature`.
        logit_scale: value of the argument `logit_scale`, or None.
        default: value of `temperature` where it is left out.

    Raises:
        ValueError: both were given; they say the same.
    """
    if logit_scale is None:
        return "temperature", temperature
    if not isinstance(temperature, float) or temperature != default:
        expected = "to be left out beside `logit_scale`, which is 1 / temperature"
        raise invalid("temperature", expected, temperature)
    return "logit_scale", logit_scale


def check_info_nce(
    temperature: Any, negatives: Any, normalize: Any, positives: Any, implementation: Any
) -> dict[str, Any]:
    """The options of InfoNCE by their names, checked; what every object of it is made with.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    pairs = Pairs(negatives, positives)
    return {
        "temperature": check_positive("temperature", temperature),
        "negatives": pairs.negatives,
        "normalize": check_bool("normalize", normalize),
        "positives": pairs.positives,
        "implementation": check_implementation(implementation),
    }


def info_nce_reference(
    x: Any,
    y: Any = None,
    temperature: float = RELATED_DEFAULTS.temperature,
    negatives: str = RELATED_DEFAULTS.negatives,
    bank: Any = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
    positives: str = RELATED_DEFAULTS.positives,
    ids: Any = None,
    bank_ids: Any = None,
    logit_scale: float | None = None,
    *,
    symmetric: bool = False,
    decoupled: bool = False,
) -> float:
    """InfoNCE: mean over anchors of the mean over their positives of log(Z) - s+.

    s = x . y / temperature, and Z is the sum of e^s over all positives and all negatives of the
    anchor. Without ids the one positive of x_i is y_i: "all" then is the NT-Xent of SimCLR (Chen et
    al. 2020, eq. 1), "cross" one direction of CLIP or of MoCo v3, `bank` the queue of MoCo (He et
    al. 2020, eq. 1). With ids "all" is supervised contrastive (Khosla et al. 2020, L_out, eq. 2).
    An anchor without a positive has a loss of 0. `logit_scale` is 1 / temperature. `symmetric` and
    `decoupled` as for `fmicl_core.pairs.Pairs`.
    """
    scale = 1.0 / temperature if logit_scale is None else logit_scale
    chosen = {"symmetric": symmetric, "decoupled": decoupled}
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids, **chosen)
    rows = _rows(x, y, bank, normalize, ids is not None)
    same = equal_ids(rows, ids, bank_ids)
    twins = np.eye(len(rows["x"]), dtype=bool)
    every, shared = [], []
    for anchor, pools in info_nce_anchors(pairs):
        equal = same["x", "x"]
        if positives == "pair":
            positive = {"y" if anchor == "x" else "x": twins}
        else:
            views = info_nce_positives(pairs)[anchor]
            positive = {v: equal & ~twins if v == anchor else equal for v in views}
        negative = {pool: ~same["x", "bank" if pool == "bank" else "x"] for pool in pools}
        if not any(mask.any() for mask in negative.values()):
            raise no_negatives(len(rows[pools[0]]), pairs.has_bank)
        scores = {v: rows[anchor] @ rows[v].T * scale for v in sorted({*positive, *pools})}
        none = np.zeros((), bool)
        within = {} if decoupled else positive
        logits = [
            np.where(within.get(v, none) | negative.get(v, none), s, -np.inf)
            for v, s in scores.items()
        ]
        log_z = _logsumexp(np.concatenate(logits, axis=1), axis=1)
        count = sum(mask.sum(axis=1) for mask in positive.values())
        total = sum((mask * scores[v]).sum(axis=1) for v, mask in positive.items())
        every.append(np.where(count > 0, log_z - total / np.maximum(count, 1), 0.0))
        shared.append(count)
    if not np.any(shared):
        raise no_positives(len(rows["x"]))
    return float(np.mean(every))


def donsker_varadhan_reference(
    x: Any, y: Any = None, temperature: float = RELATED_DEFAULTS.temperature
) -> float:
    """Donsker-Varadhan loss: -mean_i s(x_i, y_i) + log mean over i != j of e^s(x_i, y_j).

    The mean over all pairs stands inside the logarithm; InfoNCE has a mean of logarithms instead
    (Lu et al. 2023).
    """
    rows = _rows(x, y, None, True)
    s = rows["x"] @ rows["y"].T / temperature
    off = s[~np.eye(len(s), dtype=bool)]
    return float(-np.trace(s) / len(s) + _logsumexp(off) - np.log(off.size))


def alignment_uniformity_reference(
    x: Any,
    y: Any = None,
    exponent: float = RELATED_DEFAULTS.exponent,
    t: float = RELATED_DEFAULTS.t,
    uniformity_weight: float = RELATED_DEFAULTS.uniformity_weight,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> float:
    """Alignment and uniformity (Wang and Isola 2020, section 4.1).

    mean_i |x_i - y_i|^exponent + uniformity_weight * (u(x) + u(y)) / 2, with
    u(x) = log mean over i != j of exp(-t |x_i - x_j|^2).
    """
    rows = _rows(x, y, None, normalize)
    distance = np.sqrt(((rows["x"] - rows["y"]) ** 2).sum(axis=1))
    spread = [_log_potential(rows[name], t) for name in ("x", "y")]
    return float((distance**exponent).mean() + uniformity_weight * np.mean(spread))


def spectral_contrastive_reference(
    x: Any, y: Any = None, normalize: bool = RELATED_DEFAULTS.normalize
) -> float:
    """Spectral contrastive loss: -2 mean_i x_i . y_i + mean over i != j of (x_i . y_j)^2.

    HaoChen et al. (2021); Pearson f-MICL with x . y in place of the kernel, less 1.
    """
    rows = _rows(x, y, None, normalize)
    s = rows["x"] @ rows["y"].T
    off = s[~np.eye(len(s), dtype=bool)]
    return float(-2.0 * np.trace(s) / len(s) + (off**2).mean())


def _rows(
    x: Any, y: Any, bank: Any, normalize: bool, has_ids: bool | None = None
) -> dict[str, Matrix]:
    given = checked_arrays(x, y, bank, has_ids)
    rows = {k: v.astype(np.float64) for k, v in given.items()}
    return {k: normalize_rows(v) for k, v in rows.items()} if normalize else rows


def _log_potential(x: Matrix, t: float) -> float:
    d2 = ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=-1)
    off = d2[~np.eye(len(x), dtype=bool)]
    return float(_logsumexp(-t * off) - np.log(off.size))


def _logsumexp(s: Matrix, axis: int | None = None) -> NDArray[np.float64]:
    peak = s.max(axis=axis, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(s - peak).sum(axis=axis, keepdims=True)) + peak
    return total.reshape(()) if axis is None else total.squeeze(axis)
