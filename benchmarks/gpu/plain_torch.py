"""The losses as users write them in plain PyTorch: what ours are timed against."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.cases import CHUNK, Speed, is_single
from fmicl_core import FMICL
from fmicl_core.divergences import LOG2
from fmicl_core.objective import DEFAULTS
from fmicl_core.related import RELATED_DEFAULTS

Tensor = torch.Tensor
#: Factor of x . y and constant of z, as f-MICL has them by default.
SCALE, _, BIAS = FMICL().coefficients()
#: Takes a piece and the arrays whose rows are cut, then those that are whole; adds up the pieces.
Each = Callable[..., Tensor]


def plain_loss(case: Speed) -> Callable[..., Tensor]:
    """The loss of a case in the form that it names, of x, y and the arguments of ours.

    "eager_dense" is one matrix of all pairs, "compiled_dense" the same under torch.compile. Of
    "compiled_chunks" each chunk is compiled, and computed again in the backward pass: memory is
    linear, as Inf-CL's is.
    """
    loss = {"siglip": siglip, "clip": clip, "info_nce": info_nce}.get(case.loss)
    loss = loss or partial(jensen_shannon, single=is_single(case))
    loss = partial(loss, negatives=case.negatives)
    if case.form == "compiled_chunks":
        return partial(loss, chunked())
    whole = partial(loss, at_once)
    return torch.compile(whole, dynamic=False) if case.form == "compiled_dense" else whole


def at_once(piece: Each, cut: tuple[Tensor, ...], *whole: Any) -> Tensor:
    """The piece of all rows."""
    return piece(*cut, *whole)


def chunked() -> Each:
    """What sums a piece over chunks of rows, each compiled, and again in the backward pass."""
    compiled = lru_cache(partial(torch.compile, dynamic=False))

    def each(piece: Each, cut: tuple[Tensor, ...], *whole: Any) -> Tensor:
        run, parts = compiled(piece), zip(*(v.split(CHUNK) for v in cut), strict=True)
        sums = [checkpoint(run, *some, *whole, use_reentrant=False) for some in parts]
        return torch.stack(sums).sum()

    return each


def siglip(
    each: Each, x: Tensor, y: Tensor, logit_scale: Tensor, logit_bias: Tensor, negatives: str
) -> Tensor:
    """SigLIP of two views."""
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    total = each(softplus_sum, (x,), y, logit_scale, logit_bias)
    positive = logit_scale * (x * y).float().sum(dim=1) + logit_bias
    return (total - positive.sum()) / len(x)  # softplus(-z) = softplus(z) - z


def clip(each: Each, x: Tensor, y: Tensor, logit_scale: Tensor, negatives: str) -> Tensor:
    """CLIP of two views."""
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    total = each(log_sums, (x,), y, logit_scale) + each(log_sums, (y,), x, logit_scale)
    return 0.5 * total / len(x) - (logit_scale * (x * y).float().sum(dim=1)).mean()


def info_nce(
    each: Each, x: Tensor, y: Tensor, negatives: str, bank: Tensor | None = None
) -> Tensor:
    """InfoNCE at its default temperature: one direction, both with both views, or with a bank."""
    x, y, scale = F.normalize(x, dim=1), F.normalize(y, dim=1), 1.0 / RELATED_DEFAULTS.temperature
    positive = scale * (x * y).float().sum(dim=1)
    if bank is not None:
        total = each(log_sums_beside, (x, positive), F.normalize(bank, dim=1), scale)
        return total / len(x) - positive.mean()
    if negatives == "cross":
        return each(log_sums, (x,), y, scale) / len(x) - positive.mean()
    rows = torch.cat((x, y))
    total = each(log_sums_of_others, (rows, torch.arange(len(rows), device=x.device)), rows, scale)
    return total / len(rows) - positive.mean()


def jensen_shannon(
    each: Each, x: Tensor, y: Tensor | None = None, *, negatives: str, single: bool,
    bank: Tensor | None = None, ids: Tensor | None = None,
    logit_scale: Tensor | float = SCALE,
    logit_bias: Tensor | float = BIAS,
) -> Tensor:  # fmt: skip
    """Jensen-Shannon f-MICL, with z = logit_scale (x . y) + logit_bias."""
    x = F.normalize(x, dim=1)
    y = x if y is None else F.normalize(y, dim=1)
    scalars, alpha, n = (logit_scale, logit_bias), DEFAULTS.alpha, len(x)
    pool = y if negatives == "cross" else x
    others = pool if bank is None else F.normalize(bank, dim=1)
    own = logit_scale * (x * others[:n]).float().sum(dim=1) + logit_bias
    if ids is not None:  # with one array of rows, or "cross": negatives where positives are
        own_ids = ids.long()
        same = torch.zeros_like(own_ids).index_add(0, own_ids, torch.ones_like(own_ids))[own_ids]
        weights = 1.0 / (n * (same - int(single)).clamp(min=1))
        share = alpha / (n * n - same.sum())
        total = each(labelled_sum, (x, ids, weights), others, ids, share, *scalars)
        if single:
            total = total - (weights * F.softplus(-own)).sum()
        return total - (alpha + 1.0) * LOG2
    total = each(softplus_sum, (x,), others, *scalars)
    if bank is None:
        total = total - F.softplus(own).sum()
    pairs = n * (len(others) - (bank is None))
    positive = logit_scale * (x * y).float().sum(dim=1) + logit_bias
    return alpha * (total / pairs - LOG2) + F.softplus(-positive).mean() - LOG2


def softplus_sum(rows: Tensor, others: Tensor, scale: Any, bias: Any) -> Tensor:
    """Sum of softplus(z)."""
    return F.softplus(scale * (rows @ others.T).float() + bias).sum()


def labelled_sum(
    rows: Tensor, ids: Tensor, weights: Tensor, others: Tensor, other_ids: Tensor, share: Tensor,
    scale: Any, bias: Any,
) -> Tensor:  # fmt: skip
    """Sum of the weighted scores of equal ids and of the penalties of the others."""
    z = scale * (rows @ others.T).float() + bias
    equal = ids[:, None] == other_ids[None, :]
    return torch.where(equal, weights[:, None] * F.softplus(-z), share * F.softplus(z)).sum()


def log_sums(rows: Tensor, others: Tensor, scale: Any) -> Tensor:
    """Sum of the logarithms of each row's sum of exponentials."""
    return (scale * (rows @ others.T).float()).logsumexp(dim=1).sum()


def log_sums_beside(rows: Tensor, positive: Tensor, others: Tensor, scale: Any) -> Tensor:
    """The same with the positive pair's logit among the exponents."""
    return torch.logaddexp((scale * (rows @ others.T).float()).logsumexp(dim=1), positive).sum()


def log_sums_of_others(rows: Tensor, places: Tensor, others: Tensor, scale: Any) -> Tensor:
    """The same without the row itself, which is the one of `others` at its place."""
    z = scale * (rows @ others.T).float()
    itself = places[:, None] == torch.arange(len(others), device=z.device)
    return z.masked_fill(itself, -torch.inf).logsumexp(dim=1).sum()
