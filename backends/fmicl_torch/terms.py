"""The loss and its two terms, of whatever form, of this process or of all ranks."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, NamedTuple

import torch

from fmicl_core import FMICL, Pairwise
from fmicl_core.checks import check_bool, overflowed
from fmicl_core.forms import WITH_FUSED, check_implementation
from fmicl_core.objective import AUTO, SCALARS
from fmicl_core.pairs import pairs_of
from fmicl_core.renamed import with_old_names
from fmicl_torch.blocks import BlockMeans
from fmicl_torch.distributed import Distributed, eager_over_ranks, ranks_of
from fmicl_torch.fused import fused_dtype
from fmicl_torch.ids import (
    explain_ids,
    ids_of_rows,
    number_rows,
    tells_nothing,
)
from fmicl_torch.inputs import (
    Auto,
    Scalar,
    Weight,
    as_tensor,
    explain_non_finite,
    prepare,
    scalar_of,
)
from fmicl_torch.ranks import Prepared
from fmicl_torch.registry import KNOWN, described, learned, ratio
from fmicl_torch.small import is_small
from fmicl_torch.small_pairs import SmallPairs
from fmicl_torch.transforms import is_batched

#: alpha, logit_scale and logit_bias.
Scalars = tuple[Weight, Scalar | None, Scalar | None]


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs.

    alpha is the weight that was used, a constant to derivatives.

    Examples:
        >>> import torch
        >>> from fmicl_torch import fmicl_terms
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss, score, penalty, alpha = fmicl_terms(x, y, divergence="js")
        >>> round(float(loss), 3), round(float(-score + alpha * penalty), 3)
        (-23.879, -23.879)
    """

    loss: torch.Tensor
    score: torch.Tensor
    penalty: torch.Tensor
    alpha: torch.Tensor


@eager_over_ranks
def terms_of(
    name: str,
    distributed: Distributed | None,
    text: str,
    negatives: str,
    positives: str,
    scalars: Scalars,
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    ids: torch.Tensor | None,
    bank_ids: torch.Tensor | None,
    implementation: str,
    check_finite: bool,
    each_pair: bool = False,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        name: name of the loss.
        text: text of the specification in the registry, as it is without a learned scale.
        distributed, negatives, positives, x, y, bank, ids, bank_ids, implementation,
            check_finite: as for `fmicl_loss`.
        scalars: alpha, or how it is found; logit_scale and logit_bias, as for `fmicl_loss`.
        each_pair: whether every pair counts alike, as in SigLIP, which needs a scale and a bias:
            both terms are sums over their pairs, divided by N and by N (N - 1), and alpha is N - 1.
    """
    scale, bias = scalars[1:]
    has_logits = each_pair or scale is not None or bias is not None
    used = learned(text) if has_logits else text  # before Dynamo takes a look at `KNOWN`
    alpha = scalars[0]
    of_ratio = ratio(used) if isinstance(alpha, Auto) else ""
    pairwise = KNOWN[text]
    if has_logits and not each_pair:
        scale, bias = pairwise.similarity.logits(scale, bias)

    ranks = ranks_of(distributed, x, name)
    if ranks is None and y is not None:
        tensors = x, y, bank, (scalars[0], scale, bias), implementation, pairwise.normalize
        if is_small(*tensors) and tells_nothing(ids, bank_ids, x, bank):
            options = (text, negatives, positives), scale, bias, check_finite, each_pair
            terms = _small_terms(KNOWN[used], scalars, x, y, bank, *options)
            if terms is not None:
                return terms

    def prepare_own(least: int) -> Prepared:
        check_bool("check_finite", check_finite)
        form = check_implementation(implementation, WITH_FUSED)
        weight = alpha
        if not isinstance(weight, Auto):
            weight = scalar_of("alpha", weight, read=check_finite)
        factor, constant = (
            scalar_of(which, value, read=check_finite) if has_logits else None
            for which, value in (("logit_scale", scale), ("logit_bias", bias))
        )
        pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids)
        rows = prepare(x, y, bank, pairwise.normalize, ids is not None, least, form, factor)
        own_bias = None if constant is None else as_tensor(constant, rows["x"])
        dtype = reduce(torch.promote_types, [v.dtype for v in (x, y, bank) if v is not None])
        among_ids = ids is not None and bool(pairs.positive_blocks)
        fused = fused_dtype(form, used, x, dtype, positives=among_ids)
        own_ids = ids_of_rows(ids, bank_ids, rows)
        return Prepared(rows, own_ids, pairs, form, fused, weight, own_bias)

    if ranks is None:
        given = prepare_own(least=2)
    else:
        same = {"settings": described(text), "negatives": negatives, "positives": positives,
                "check_finite": check_finite}  # fmt: skip
        given = ranks.agree(lambda: prepare_own(least=1), same)
    with torch.autocast(x.device.type, enabled=False):
        pairs, numbers = given.pairs, None
        if given.ids:
            every = given.ids["ids"] if ranks is None else ranks.gather(given.ids["ids"])
            numbers = number_rows(every, given.ids.get("bank_ids"))
        means = BlockMeans(given, used, numbers, ranks, each_pair)
        scores = [means.score_of_views()] if y is not None else []
        if numbers is not None and pairs.positive_blocks:
            scores.append(means.score(pairs.positive_blocks))
        score = sum(scores[1:], scores[0])
        excess = means.excess(pairs.negative_blocks)
        penalty = pairwise.limit + excess
        weight = given.weight
        if each_pair:
            weight = (len(x) if ranks is None else ranks.total) - 1
        if isinstance(weight, Auto):
            mean = excess.detach()  # of KL, whose penalty is u
            if of_ratio != used:
                means = BlockMeans(given.constant, of_ratio, numbers, ranks)
                mean = means.excess(pairs.negative_blocks)
            weight = weight.over(mean)
        loss = weight * penalty - score
        if loss.dtype != excess.dtype:  # alpha is an array of another dtype
            loss = loss.to(excess.dtype)
    checked = check_finite and not torch.compiler.is_compiling() and not is_batched(loss)
    if checked and not loss.isfinite():
        # All ranks have this loss and these numbers, and all come here.
        error = None if numbers is None else explain_ids(pairs, numbers)
        if error is not None:
            raise error
        error = explain_non_finite(x, y, bank)
        if ranks is not None:
            ranks.raise_first(error)
        a, c = (None if value is None else float(value) for value in scalars[1:])
        mine = (AUTO, alpha.strength) if isinstance(alpha, Auto) else (float(weight), None)
        settings = FMICL(
            pairwise.divergence, pairwise.similarity, mine[0], negatives, pairwise.normalize,
            positives, a, c, mine[1],
        )  # fmt: skip
        raise error or overflowed(settings, loss.item(), float(weight))
    return FMICLTerms(loss, score, penalty, as_tensor(weight, loss).detach())


def _small_terms(
    pairwise: Pairwise,
    scalars: Scalars,
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    names: tuple[str, str, str],
    scale: Scalar | None,
    bias: Scalar | None,
    check_finite: bool,
    each_pair: bool,
) -> FMICLTerms | None:
    """The terms of features that are small; None where that form has them not, or not finite."""
    refused = not isinstance(check_finite, bool) or (each_pair and (scale is None or bias is None))
    if refused or pairwise.coefficients()[1]:
        return None

    def number(name: str, value: Scalar | None) -> float:
        value = scalar_of(name, value, read=check_finite)
        return float(value.detach().item() if isinstance(value, torch.Tensor) else value)

    pairs = pairs_of(*names[1:], y, bank, None, None)
    alpha, factor, constant = scalars[0], 1.0, None
    if scale is not None and bias is not None:
        factor, constant = number(SCALARS[1], scale), number(SCALARS[2], bias)
    if not isinstance(alpha, Auto):
        alpha = number(SCALARS[0], alpha)
        alpha = float(len(x) - 1) if each_pair else alpha
    small = SmallPairs(pairwise, pairs.negative_blocks, alpha, factor, constant)

    def dense(x: Any, y: Any, bank: Any, *now: Any) -> FMICLTerms:
        arrays = x, y, bank, None, None
        return terms_of("", False, *names, now, *arrays, "dense", False, each_pair)  # type: ignore[arg-type]

    loss, score, penalty, weight = small.terms(dense, x, y, bank, (scalars[0], scale, bias))
    if check_finite and not math.isfinite(loss.item()):
        return None
    return FMICLTerms(loss, score, penalty, weight.detach())
