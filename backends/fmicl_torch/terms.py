"""The loss and its two terms, of whatever form, of this process or of all ranks."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch

from fmicl_core import FMICL
from fmicl_core.checks import check_bool, invalid, overflowed
from fmicl_core.forms import FUSED, WITH_FUSED, check_implementation, choose_form
from fmicl_core.pairs import Block, mean_over_blocks, negative_blocks
from fmicl_core.renamed import with_old_names
from fmicl_torch.dense import Rows, dense_block_mean, positive_scores
from fmicl_torch.distributed import Distributed, Prepared, Ranks, ranks_of
from fmicl_torch.fused import fused_dtype
from fmicl_torch.inputs import explain_non_finite, prepare, weight_of
from fmicl_torch.registry import KNOWN, described
from fmicl_torch.ring import ring_excess
from fmicl_torch.tiled import tiled_block_mean
from fmicl_torch.transforms import is_batched


@with_old_names(alignment="score", uniformity="penalty")
class FMICLTerms(NamedTuple):
    """loss = -score + alpha * penalty, scalars: means over the positive and the negative pairs."""

    loss: torch.Tensor
    score: torch.Tensor
    penalty: torch.Tensor


def terms_of(
    text: str,
    negatives: str,
    alpha: float | torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: Distributed,
    samples: Rows | None = None,
) -> FMICLTerms:
    """The loss and its terms; what every public form of it calls.

    Args:
        text: text of the specification in the registry.
        samples: number of each row's sample, by the names of the rows, or None.
        negatives, alpha, x, y, bank, implementation, check_finite, distributed: as for
            `fmicl_loss`.
    """
    pairwise, blocks = KNOWN[text], negative_blocks(negatives, bank is not None)

    def prepare_own(least: int) -> Prepared:
        check_bool("check_finite", check_finite)
        named = check_implementation(implementation, WITH_FUSED)
        if samples is not None and named not in ("auto", "dense"):
            raise invalid("implementation", "'auto' or 'dense' with `samples`", named)
        form = named if samples is None else "dense"
        weight = weight_of(alpha, read=check_finite)
        rows = prepare(x, y, bank, pairwise.normalize, least=least, implementation=form)
        given = [side.dtype for side in (x, y, bank) if side is not None]
        dtype = reduce(torch.promote_types, given)
        return Prepared(rows, form, fused_dtype(form, text, x, dtype), weight)

    ranks = None if distributed is False else ranks_of(distributed, x)
    if ranks is None:
        rows, form, fused, weight = prepare_own(least=2)
    else:
        same = {"settings": described(text), "negatives": negatives, "check_finite": check_finite}
        rows, form, fused, weight = ranks.agree(lambda: prepare_own(least=1), same)
    with torch.autocast(x.device.type, enabled=False):
        if ranks is None:
            score = positive_scores(rows, pairwise).mean()
            excess = _excess(rows, text, blocks, form, fused, samples)
        else:
            score = ranks.mean(positive_scores(rows, pairwise))
            excess = _shared_excess(rows, text, blocks, form, fused, ranks)
        penalty = pairwise.limit + excess
        loss = weight * penalty - score
        if loss.dtype != excess.dtype:  # alpha is an array of another dtype
            loss = loss.to(excess.dtype)
    checked = check_finite and not torch.compiler.is_compiling() and not is_batched(loss)
    if checked and not loss.isfinite():
        error = explain_non_finite(x, y, bank)
        if ranks is not None:  # all have this loss, and all come here
            ranks.raise_first(error)
        formulas = pairwise.divergence, pairwise.similarity
        settings = FMICL(*formulas, float(weight), negatives, pairwise.normalize)
        raise error or overflowed(settings, loss.item())
    return FMICLTerms(loss, score, penalty)


def _excess(
    rows: Rows,
    text: str,
    blocks: tuple[Block, ...],
    implementation: str,
    fused: str,
    samples: Rows | None = None,
) -> torch.Tensor:
    """Mean excess of the negative pairs among these rows; with the limit it is the mean penalty."""
    n, k = len(rows["x"]), len(rows.get("bank", rows["x"]))
    form = choose_form(implementation, n, k, bool(fused))

    def block_mean(block: Block) -> torch.Tensor:
        left, right = block.sides(rows)
        if form != "dense":
            dtype = fused if form == FUSED else ""
            return tiled_block_mean(left, right, text, block.skips_diagonal, dtype)
        numbers = None if samples is None else (samples[block.left], samples[block.right])
        return dense_block_mean(left, right, KNOWN[text], block.skips_diagonal, numbers)

    return mean_over_blocks(blocks, block_mean)


def _shared_excess(
    rows: Rows, text: str, blocks: tuple[Block, ...], implementation: str, fused: str, ranks: Ranks
) -> torch.Tensor:
    """Mean excess of the negative pairs in the union of the ranks' rows."""
    if "bank" in rows:  # every rank has all negatives of its rows
        own = _excess(rows, text, blocks, implementation, fused)
        return ranks.mean(own.expand(len(rows["x"])))
    form = choose_form(implementation, ranks.total, ranks.total, bool(fused))
    if form != "dense":
        return ring_excess(rows, text, blocks, ranks, fused if form == FUSED else "")
    union = {name: ranks.gather(side) for name, side in rows.items()}
    return _excess(union, text, blocks, "dense", "")
