"""InfoNCE and the other losses that f-MICL generalises, in PyTorch."""

from __future__ import annotations

import math

import torch

from fmicl_core.checks import check_positive
from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.related import (
    INFO_NCE_OPTIONS,
    RELATED_DEFAULTS,
    check_info_nce,
    info_nce_anchors,
)
from fmicl_torch.dense import Rows
from fmicl_torch.distributed import tell_of_ranks
from fmicl_torch.inputs import prepare
from fmicl_torch.ops import TORCH, off_diagonal
from fmicl_torch.tiled_related import tiled_info_nce


def info_nce_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    temperature: float = RELATED_DEFAULTS.temperature,
    negatives: str = RELATED_DEFAULTS.negatives,
    bank: torch.Tensor | None = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
    implementation: str = "auto",
) -> torch.Tensor:
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `fmicl_loss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature; s+ is the score of the anchor's other view.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = features.chunk(2)`.
        temperature: temperature > 0 that scores are divided by.
        negatives: scheme of negatives: "all", the NT-Xent of SimCLR: the anchors are both views,
            the negatives all other samples of both; "cross": anchors x, negatives y (CLIP in one
            direction, MoCo v3); "anchor": anchors x, negatives x; "within": "anchor" averaged with
            its twin on y.
        bank: (K, D) features that supply all negatives (MoCo's queue), or None.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (two passes, O(N D) memory, differentiable once), or "auto", by size.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1; He et al. (2020), eq. 1.
    """
    tell_of_ranks("info_nce_loss")
    temperature = check_positive("temperature", temperature)
    check_implementation(implementation)
    anchors = info_nce_anchors(negatives, bank is not None)
    rows = prepare(x, y, bank, normalize, implementation=implementation)
    form = choose_form(implementation, len(x), len(rows.get("bank", x)))
    with torch.autocast(x.device.type, enabled=False):
        if form == "tiled":
            return tiled_info_nce(rows, temperature, negatives)
        positive = (rows["x"] * rows["y"]).sum(dim=1) / temperature
        losses = []
        for anchor, pools in anchors:
            logits = [_negative_logits(rows, anchor, pool, temperature) for pool in pools]
            every = logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)
            # The same as log-sum-exp of all less s+, but where the loss is small nothing cancels.
            losses.append(TORCH.softplus(torch.logsumexp(every, dim=1) - positive).mean())
        return torch.stack(losses).mean()


def _negative_logits(rows: Rows, anchor: str, pool: str, temperature: float) -> torch.Tensor:
    s = rows[anchor] @ rows[pool].T / temperature
    if pool == "bank":
        return s
    return s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -torch.inf)


class InfoNCELoss(torch.nn.Module):
    """`info_nce_loss` as a module: the same options, no parameters and no state.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    Any option may be assigned at any time.

    Args:
        temperature, negatives, normalize, implementation: as for `info_nce_loss`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    temperature: float
    negatives: str
    normalize: bool
    implementation: str

    def __init__(
        self,
        *,
        temperature: float = RELATED_DEFAULTS.temperature,
        negatives: str = RELATED_DEFAULTS.negatives,
        normalize: bool = RELATED_DEFAULTS.normalize,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        vars(self).update(check_info_nce(temperature, negatives, normalize, implementation))

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, bank: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of x (N, D), y (N, D) and, if given, bank (K, D); scalar."""
        options = {name: getattr(self, name) for name in INFO_NCE_OPTIONS}
        return info_nce_loss(x, y, bank=bank, **options)

    def extra_repr(self) -> str:
        """The options, as they would be pasted."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in INFO_NCE_OPTIONS)


def alignment_uniformity_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    exponent: float = RELATED_DEFAULTS.exponent,
    t: float = RELATED_DEFAULTS.t,
    uniformity_weight: float = RELATED_DEFAULTS.uniformity_weight,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> torch.Tensor:
    """Alignment and uniformity: mean |x_i - y_i|^exponent + uniformity_weight (u(x) + u(y)) / 2.

    u(x) = log mean over i != j of exp(-t |x_i - x_j|^2).

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = features.chunk(2)`.
        exponent: exponent > 0 of the distance.
        t: rate of the Gaussian potential in 1 / (units of the features)^2, > 0.
        uniformity_weight: weight > 0 of the uniformity.
        normalize: whether rows are scaled to unit length first.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Wang and Isola (2020), section 4.1.
    """
    tell_of_ranks("alignment_uniformity_loss")
    for name, value in (("exponent", exponent), ("t", t), ("uniformity_weight", uniformity_weight)):
        check_positive(name, value)
    rows = prepare(x, y, None, normalize)
    with torch.autocast(x.device.type, enabled=False):
        square = (rows["x"] - rows["y"]).square().sum(dim=1)
        spread = [_log_potential(rows[name], t) for name in ("x", "y")]
        return _power(square, exponent).mean() + uniformity_weight * torch.stack(spread).mean()


def _power(square: torch.Tensor, exponent: float) -> torch.Tensor:
    """Distances to the exponent, of their squares."""
    if exponent >= 2.0:
        return square ** (exponent / 2.0)
    # The slope of a power below 1 is infinite at 0. A pair that coincides has the slope 0.
    apart = torch.where(square == 0, 1.0, square) ** (exponent / 2.0)
    return torch.where(square == 0, 0.0, apart)


def _log_potential(x: torch.Tensor, t: float) -> torch.Tensor:
    lengths = x.square().sum(dim=1)
    d2 = off_diagonal(lengths[:, None] + lengths[None, :] - 2.0 * (x @ x.T))
    return torch.logsumexp(-t * d2.flatten(), dim=0) - math.log(d2.numel())


def spectral_contrastive_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> torch.Tensor:
    """Spectral contrastive loss: -2 mean_i x_i . y_i + mean over i != j of (x_i . y_j)^2.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = features.chunk(2)`.
        normalize: whether rows are scaled to unit length first.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: a shape does not fit; the message names it.

    Source: HaoChen et al. (2021).
    """
    tell_of_ranks("spectral_contrastive_loss")
    rows = prepare(x, y, None, normalize)
    with torch.autocast(x.device.type, enabled=False):
        s = rows["x"] @ rows["y"].T
        return -2.0 * s.diagonal().mean() + off_diagonal(s).square().mean()
