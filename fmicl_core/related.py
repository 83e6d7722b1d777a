"""The losses that f-MICL generalises, in float64 NumPy: InfoNCE, alignment-uniformity, spectral.

Like `fmicl_core.reference`, these are the truth the backends are tested against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import check_bool, check_positive
from fmicl_core.forms import check_implementation
from fmicl_core.objective import Block, negative_blocks
from fmicl_core.reference import Matrix, checked_arrays, normalize_rows


class RelatedDefaults(NamedTuple):
    """Default options of the related losses in every backend."""

    temperature: float = 0.5
    negatives: str = "all"
    exponent: float = 2.0
    t: float = 2.0
    uniformity_weight: float = 1.0
    normalize: bool = True


RELATED_DEFAULTS = RelatedDefaults()

#: The anchors of InfoNCE and the pools its negatives come from. Every anchor has one softmax over
#: its positive and all of its negatives.
ANCHORS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "anchor": (("x", ("x",)),),
    "within": (("x", ("x",)), ("y", ("y",))),
    "cross": (("x", ("y",)),),
    "all": (("x", ("x", "y")), ("y", ("y", "x"))),
}


def info_nce_anchors(negatives: str, has_bank: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Pairs (anchor view, pools of negatives); the loss averages over the anchor views.

    Raises:
        ValueError: `negatives` is unknown (the message lists the names).
    """
    negative_blocks(negatives, has_bank)
    return (("x", ("bank",)),) if has_bank else ANCHORS[negatives]


#: What an object of InfoNCE is made with.
INFO_NCE_OPTIONS = ("temperature", "negatives", "normalize", "implementation")


def check_info_nce(
    temperature: Any, negatives: Any, normalize: Any, implementation: Any
) -> dict[str, Any]:
    """The options of InfoNCE by their names, checked; what every object of it is made with.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    info_nce_anchors(negatives, has_bank=False)
    return {
        "temperature": check_positive("temperature", temperature),
        "negatives": negatives,
        "normalize": check_bool("normalize", normalize),
        "implementation": check_implementation(implementation),
    }


def info_nce_blocks(negatives: str, has_bank: bool) -> tuple[tuple[Block, bool], ...]:
    """The softmaxes of `info_nce_anchors` with every pair once: blocks, and whether the right rows
    of each are anchors too.

    The left rows of a block always are.

    Raises:
        ValueError: `negatives` is unknown (the message lists the names).
    """
    pools = dict(info_nce_anchors(negatives, has_bank))
    blocks = negative_blocks(negatives, has_bank)
    return tuple((block, block.left in pools.get(block.right, ())) for block in blocks)


def info_nce_reference(
    x: Any,
    y: Any = None,
    temperature: float = RELATED_DEFAULTS.temperature,
    negatives: str = RELATED_DEFAULTS.negatives,
    bank: Any = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> float:
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    s = x . y / temperature. "all" is the NT-Xent of SimCLR (Chen et al. 2020, eq. 1), "cross" one
    direction of CLIP or of MoCo v3, `bank` the queue of MoCo (He et al. 2020, eq. 1).
    """
    rows = _rows(x, y, bank, normalize)
    positive = (rows["x"] * rows["y"]).sum(axis=1) / temperature
    losses = []
    for anchor, pools in info_nce_anchors(negatives, bank is not None):
        logits = [positive[:, None]]
        for pool in pools:
            s = rows[anchor] @ rows[pool].T / temperature
            if pool != "bank":
                np.fill_diagonal(s, -np.inf)
            logits.append(s)
        losses.append(_logsumexp(np.concatenate(logits, axis=1), axis=1) - positive)
    return float(np.mean(losses))


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


def _rows(x: Any, y: Any, bank: Any, normalize: bool) -> dict[str, Matrix]:
    rows = {k: v.astype(np.float64) for k, v in checked_arrays(x, y, bank).items()}
    return {k: normalize_rows(v) for k, v in rows.items()} if normalize else rows


def _log_potential(x: Matrix, t: float) -> float:
    d2 = ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=-1)
    off = d2[~np.eye(len(x), dtype=bool)]
    return float(_logsumexp(-t * off) - np.log(off.size))


def _logsumexp(s: Matrix, axis: int | None = None) -> NDArray[np.float64]:
    peak = s.max(axis=axis, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(s - peak).sum(axis=axis, keepdims=True)) + peak
    return total.reshape(()) if axis is None else total.squeeze(axis)
