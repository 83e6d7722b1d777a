"""InfoNCE and its kin, CLIP, DCL and DHEL: the softmaxes in some form, and what ids add to them."""

from __future__ import annotations

from typing import Any

import torch

from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_positives
from fmicl_torch.dense import Rows
from fmicl_torch.dense_related import dense_info_nce
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
from fmicl_torch.small import is_small
from fmicl_torch.small_info_nce import small_info_nce
from fmicl_torch.tiled_related import tiled_info_nce
from fmicl_torch.transforms import is_batched


def info_nce_of(
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
        pairs: pairs of the arrays, and which of them stand in softmaxes.
        scale: "temperature" or "logit_scale", and its value.
        x, y, bank, ids, bank_ids, normalize, implementation: as for `info_nce_loss`.
    """

    def dense(x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None, by: Scalar) -> Any:
        options = normalize, "dense"
        return info_nce_of(pairs, ("logit_scale", by), x, y, bank, None, None, *options)

    name, value = scale[0], scalar_of(*scale, read=True)
    factor = 1.0 / value if name == "temperature" else value
    check_implementation(implementation)
    scores = 1 if bank is not None else {"all": 4, "within": 2}.get(pairs.negatives, 1)
    if is_small(x, y, bank, [value], implementation, normalize, scores) and (
        ids is None or tells_nothing(ids, bank_ids, x, bank)
    ):
        assert y is not None
        return small_info_nce(dense, pairs, factor, x, y, bank, normalize)
    has_ids, form = ids is not None, implementation
    rows = prepare(x, y, bank, normalize, has_ids, implementation=form, scale=factor)
    own = ids_of_rows(ids, bank_ids, rows)
    form = choose_form(implementation, *largest_block(rows, bool(own)))
    info_nce = tiled_info_nce if form == "tiled" else dense_info_nce
    with torch.autocast(x.device.type, enabled=False):
        if not own:
            return info_nce(rows, pairs, None)
        numbers = number_rows(own["ids"], own.get("bank_ids"))
        loss = info_nce(rows, pairs, numbers)
        if pairs.positive_blocks:
            loss = loss + _pull_of_ids(rows, pairs, numbers)
        # Without a negative pair it is no contrast, and NaN.
        loss = loss + 0.0 / share_of_negatives(pairs, numbers, loss.dtype)
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
