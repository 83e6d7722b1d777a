"""Ids in the terms of rows: which rows are equal, how many, and in which tiles they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from fmicl_core.checks import InvalidArgument, check_ids, no_negatives, no_positives
from fmicl_core.pairs import Block, Pairs
from fmicl_torch.dense import Rows, Sides
from fmicl_torch.inputs import check_tensor

#: How many pairs of a tile have equal numbers, as far as smallest and largest numbers tell.
NONE, SOME, ALL = range(3)


def whole_numbers(argument: str, ids: Any, rows: torch.Tensor) -> torch.Tensor:
    """The ids of these rows on their device, as int64, in which unequal ids stay unequal.

    Raises:
        ValueError: the ids are no tensor or array of whole numbers, or not one a row.
    """
    if not isinstance(ids, np.ndarray):
        check_tensor(argument, ids)
    if isinstance(ids, np.ndarray) and torch.compiler.is_compiling():
        ids = torch.as_tensor(ids)  # Dynamo knows neither its dtype nor `from_numpy`
    numpy = isinstance(ids, np.ndarray)
    dtype = ids.dtype.name if numpy else str(ids.dtype).removeprefix("torch.")
    check_ids(argument, ids.shape, dtype, len(rows))
    ids = torch.from_numpy(ids.astype(np.int64)) if numpy else ids
    return ids.to(rows.device, torch.int64).contiguous()


def ids_of_rows(ids: Any, bank_ids: Any, rows: Rows) -> Rows:
    """The ids that were given, checked, by the names of their arguments."""
    given = (("ids", ids, "x"), ("bank_ids", bank_ids, "bank"))
    return {k: whole_numbers(k, v, rows[whose]) for k, v, whose in given if v is not None}


def tells_nothing(ids: Any, bank_ids: Any, x: torch.Tensor, bank: torch.Tensor | None) -> bool:
    """Whether no two rows have equal ids, so that a loss of two views is that without ids.

    False, too, where ids of a bank are a mistake.
    """
    if ids is None or (bank_ids is not None and bank is None):
        return ids is None and bank_ids is None
    given = [whole_numbers("ids", ids, x)]
    if bank_ids is not None and bank is not None:
        given.append(whole_numbers("bank_ids", bank_ids, bank).unique())
    ranked = torch.cat(given).sort().values
    return not bool((ranked[1:] == ranked[:-1]).any())


class Numbers(NamedTuple):
    """Which rows have equal ids; renaming ids changes none of it.

    Args:
        own: (N,) number of each row of x, and of y: the index of the first row with its id.
        bank: (K,) the same of each row of the bank, N where no row of x has its id; None without
            ids of the bank, whose rows then are equal to none.
        same: (N,) number of rows of x with each row's id, itself included.
        alike: (N,) number of rows of the bank with each row's id.
    """

    own: torch.Tensor
    bank: torch.Tensor | None
    same: torch.Tensor
    alike: torch.Tensor

    @property
    def by_name(self) -> Rows:
        """The numbers by the names of the arrays whose rows have some."""
        return {"x": self.own, "y": self.own} | ({} if self.bank is None else {"bank": self.bank})


def number_rows(ids: torch.Tensor, bank_ids: torch.Tensor | None) -> Numbers:
    """The numbers of rows with these ids, (N,) and (K,)."""
    order = torch.argsort(ids, stable=True)
    ranked = ids[order]
    first = torch.searchsorted(ranked, ids)
    same = torch.searchsorted(ranked, ids, right=True) - first
    own = order[first].to(torch.int32)  # compared in every tile: half the bytes of int64
    if bank_ids is None:
        return Numbers(own, None, same, torch.zeros_like(same))
    place = torch.searchsorted(ranked, bank_ids).clamp(max=len(ids) - 1)
    bank = torch.where(ranked[place] == bank_ids, order[place], len(ids)).to(torch.int32)
    others = torch.sort(bank_ids).values
    alike = torch.searchsorted(others, ids, right=True) - torch.searchsorted(others, ids)
    return Numbers(own, bank, same, alike)


def anchor_weights(pairs: Pairs, numbers: Numbers, dtype: torch.dtype) -> torch.Tensor:
    """Weight of each of an anchor's positives, (N,): 1 over their number; 0 where it has none.

    Where no anchor has a positive all are NaN, and so is every loss made of them.
    """
    count = pairs.positives_of(numbers.same).to(dtype)
    weights = torch.where(count > 0, 1.0 / count.clamp(min=1.0), 0.0)
    return torch.where((count > 0).any(), weights, torch.nan)


def share_of_negatives(pairs: Pairs, numbers: Numbers, dtype: torch.dtype) -> torch.Tensor:
    """Share of the pairs of all anchors that are negative; 1 with all ids different, a scalar."""
    return _shares_of_negatives(pairs, numbers, dtype).mean()


def _shares_of_negatives(pairs: Pairs, numbers: Numbers, dtype: torch.dtype) -> torch.Tensor:
    """Share of the pairs of each anchor that are negative, (N,)."""
    if not pairs.has_bank:
        return pairs.negatives_of(numbers.same.to(dtype), len(numbers.own))  # type: ignore[no-any-return]
    # Without ids of the bank none is alike, whatever its number of rows.
    rows = 1 if numbers.bank is None else len(numbers.bank)
    return pairs.negatives_of(numbers.alike.to(dtype), rows)  # type: ignore[no-any-return]


def explain_ids(pairs: Pairs, numbers: Numbers) -> InvalidArgument | None:
    """The error that says that there are no positive or no negative pairs, if it is so.

    A decoupled softmax, which holds negatives alone, needs some for every anchor.
    """
    if not pairs.positives_of(numbers.same).any():
        return no_positives(len(numbers.own))
    none = _shares_of_negatives(pairs, numbers, torch.float64) == 0
    if none.any() if pairs.decoupled else none.all():
        held = numbers.own if numbers.bank is None else numbers.bank
        return no_negatives(len(held), pairs.has_bank)
    return None


def sort_rows(
    rows: Rows, numbers: Rows, weights: torch.Tensor | None = None
) -> tuple[Rows, Rows, torch.Tensor | None]:
    """Rows, their numbers and weights, equal numbers side by side, so that they stand in few tiles.

    With all numbers different nothing moves.

    Args:
        rows: features by name.
        numbers: numbers of the rows by the same names; an array without some stays as it is.
        weights: (N,) weights of the rows of x, or None.
    """
    own = torch.argsort(numbers["x"], stable=True)
    orders, ranked = {"x": own, "y": own}, dict.fromkeys(("x", "y"), numbers["x"][own])
    if "bank" in numbers:
        orders["bank"] = torch.argsort(numbers["bank"], stable=True)
        ranked["bank"] = numbers["bank"][orders["bank"]]
    moved = {k: v.index_select(0, orders[k]) if k in orders else v for k, v in rows.items()}
    return moved, ranked, None if weights is None else weights[own]


def sides_of(numbers: Rows, block: Block) -> Sides | None:
    """Numbers of the rows on the left and on the right of a block, if both have some."""
    if block.right not in numbers:
        return None
    return numbers[block.left], numbers[block.right]


def equal_in_tiles(left: torch.Tensor, right: torch.Tensor, tile: int) -> Iterator[list[int]]:
    """For each tile of rows `NONE`, `SOME` or `ALL` of every tile of columns.

    Right in any order of the rows. Where equal numbers are side by side few tiles have `SOME`.
    """
    lows, highs = _ranges(right, tile)
    for low, high in zip(*_ranges(left, tile).tolist(), strict=True):
        some = (lows <= high) & (highs >= low)
        yield (some.int() + ((lows == high) & (highs == low))).tolist()


def _ranges(numbers: torch.Tensor, tile: int) -> torch.Tensor:
    """Smallest and largest number of every tile, (2, tiles), on the CPU."""
    parts = [torch.stack(part.aminmax()) for part in numbers.split(tile)]
    return torch.stack(parts, dim=1).cpu()
