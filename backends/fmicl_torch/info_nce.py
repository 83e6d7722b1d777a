"""InfoNCE and its kin, CLIP, DCL and DHEL: the softmaxes in some form, and what ids add to them."""

from __future__ import annotations

from typing import Any

import torch

from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_positives
from fmicl_torch.dense import Rows
from fmicl_torch.dense_related import dense_info_nce
from fmicl_torch.distributed import Distributed, eager_over_ranks, ranks_of
from fmicl_torch.ids import (
    Numbers,
    anchor_weights,
    explain_ids,
    ids_of_rows,
    number_rows,
    share_of_negatives,
    tells_nothing,
)
from fmicl_torch.inputs import Scalar, largest_block, prepare, scalar_of
from fmicl_torch.ranks import Prepared
from fmicl_torch.ring_softmax import ring_info_nce
from fmicl_torch.small import is_small
from fmicl_torch.small_info_nce import small_info_nce
from fmicl_torch.tiled_related import tiled_info_nce
from fmicl_torch.transforms import is_batched


@eager_over_ranks
def info_nce_of(
    name: str,
    distributed: Distributed | None,
    pairs: Pairs,
    scale: tuple[str, Scalar],
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    ids: torch.Tensor | None,
    bank_ids: torch.Tensor | None,
    normalize: bool,
    implementation: str,
) -> torch.Tensor:
    """The loss of `info_nce_loss` and its kin; what all of these call.

    Args:
        name: name of the loss.
        pairs: pairs of the arrays, and which of them stand in softmaxes.
        scale: "temperature" or "logit_scale", and its value.
        distributed, x, y, bank, ids, bank_ids, normalize, implementation: as for `info_nce_loss`.
    """

    def dense(x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None, by: Scalar) -> Any:
        arrays = x, y, bank, None, None
        return info_nce_of(name, False, pairs, ("logit_scale", by), *arrays, normalize, "dense")

    def factor_of_scores() -> Scalar:
        value = scalar_of(*scale, read=True)
        return 1.0 / value if scale[0] == "temperature" else value

    def prepare_own(least: int, factor: Scalar) -> Prepared:
        form = check_implementation(implementation)
        rows = prepare(x, y, bank, normalize, ids is not None, least, form, factor)
        return Prepared(rows, ids_of_rows(ids, bank_ids, rows), pairs, form, "", 1.0, None)

    ranks = ranks_of(distributed, x, name)
    if ranks is None:
        factor = factor_of_scores()
        scores = 1 if bank is not None else {"all": 4, "within": 2}.get(pairs.negatives, 1)
        small = is_small(x, y, bank, [factor], implementation, normalize, scores)
        if small and tells_nothing(ids, bank_ids, x, bank):
            assert y is not None
            return small_info_nce(dense, pairs, factor, x, y, bank, normalize)
        given = prepare_own(2, factor)
        sizes = largest_block(given.rows, bool(given.ids))
    else:
        same = {"loss": name, "negatives": pairs.negatives, "positives": pairs.positives,
                "normalize": normalize,
                "logit_scale": "given" if scale[0] == "logit_scale" else None}  # fmt: skip
        given = ranks.agree(lambda: prepare_own(1, factor_of_scores()), same)
        sizes = ranks.largest_block(given.rows, bool(given.ids))
    rows, own = given.rows, given.ids
    form = choose_form(given.implementation, *sizes)
    with torch.autocast(x.device.type, enabled=False):
        numbers = None
        if own:
            every = own["ids"] if ranks is None else ranks.gather(own["ids"])
            numbers = number_rows(every, own.get("bank_ids"))
        if ranks is not None and form == "tiled":
            loss = ring_info_nce(rows, pairs, numbers, ranks)
        else:
            if ranks is not None:
                rows = {k: v if k == "bank" else ranks.gather(v) for k, v in rows.items()}
            info_nce = tiled_info_nce if form == "tiled" else dense_info_nce
            loss = info_nce(rows, pairs, numbers)
            if numbers is not None and pairs.positive_blocks:
                loss = loss + _pull_of_ids(rows, pairs, numbers)
        if numbers is None:
            return loss
        # Without a negative pair it is no contrast, and NaN.
        loss = loss + 0.0 / share_of_negatives(pairs, numbers, loss.dtype)
    # All ranks have this loss and these numbers, and all come here.
    checked = not torch.compiler.is_compiling() and not is_batched(loss)
    error = explain_ids(pairs, numbers) if checked and not loss.isfinite() else None
    if error is not None:
        raise error
    return loss


def _pull_of_ids(rows: Rows, pairs: Pairs, numbers: Numbers) -> torch.Tensor:
    """What InfoNCE of (x_i, y_i) lacks of the mean over all positives; 0 with all ids different.

    The scores of an anchor's positives add up to its product with the sum of their rows, so that
    no pair is looked at. Once more the mean over the anchors of all views.
    """
    weights = anchor_weights(pairs, numbers, rows["x"].dtype)
    views = info_nce_positives(pairs)
    others = {
        name: _others(rows[name], numbers.own) for name in {v for w in views.values() for v in w}
    }
    pulls = []
    for name, partners in views.items():
        more = sum((others[p] for p in partners[1:]), others[partners[0]])
        pulls.append(-weights * (rows[name] * more).sum(dim=1))
    pull = torch.stack(pulls).mean()
    if pairs.single:
        return pull
    positive = (rows["x"] * rows["y"]).sum(dim=1)
    return pull + ((1.0 - weights) * positive).mean()


def _others(rows: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """For each row the sum of the other rows with its number; (N, D)."""
    # A node of its own, so that its two gradients cancel before others are added.
    alone = rows.view_as(rows)
    return torch.zeros_like(rows).index_add(0, numbers, alone)[numbers] - alone
