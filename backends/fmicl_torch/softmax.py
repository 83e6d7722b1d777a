"""The softmaxes of InfoNCE, tile by tile: which scores stand in them, and their running sums."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_torch.ids import ALL, NONE, SOME, sides_of
from fmicl_torch.sweep import equal_pairs, tiles_of

NAMES = ("x", "y", "bank")


class SoftmaxTiles:
    """The scores of the pairs that stand in the softmaxes, but the pairs (x_i, y_i).

    Args:
        x, y, bank, numbers, bank_numbers, negatives, positives, symmetric, decoupled, tile: as for
            `_info_nce`.
    """

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None,
        bank: torch.Tensor | None,
        numbers: torch.Tensor | None,
        bank_numbers: torch.Tensor | None,
        negatives: str,
        positives: str,
        symmetric: bool,
        decoupled: bool,
        tile: int,
    ) -> None:
        given_arrays = y is None, bank is not None
        pairs = Pairs(negatives, positives, *given_arrays, symmetric, decoupled)
        given = zip(NAMES, (x, y, bank), (numbers, numbers, bank_numbers), strict=True)
        named = [(name, rows, number) for name, rows, number in given if rows is not None]
        self.rows = {name: rows for name, rows, _ in named}
        self.numbers = {name: number for name, _, number in named if number is not None}
        self.anchors = [name for name, _ in info_nce_anchors(pairs)]
        self.softmaxes = info_nce_blocks(pairs, numbers is not None)
        self.tile = tile

    def tiles(self) -> Iterator[tuple[str, str, slice, slice, torch.Tensor, bool]]:
        """Every tile: its sides, its rows, its columns, its scores, whether columns are anchors.

        A symmetric block has its tiles on and above the diagonal. Pairs that do not count score
        -inf. The scores may be overwritten.
        """
        for block, both, which in self.softmaxes:
            left, right = block.sides(self.rows)
            numbers = None if which == "every" else sides_of(self.numbers, block)
            left_out = ALL if which == "different" else NONE
            for i, j, state in tiles_of(left, right, numbers, self.tile):
                if numbers is not None and state == left_out:
                    continue
                s = left[i] @ self.rows[block.right][j].T
                if numbers is not None and state == SOME:
                    equal = equal_pairs(numbers, i, j)
                    s.masked_fill_(equal if which == "different" else ~equal, -torch.inf)
                if block.skips_diagonal and i == j:
                    s.fill_diagonal_(-torch.inf)
                columns = both and not (block.symmetric and i == j)  # there, the rows have all
                yield block.left, block.right, i, j, s, columns


class LogSum:
    """The running log-sum-exp of every anchor's scores; at first of none.

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    def __init__(self, like: torch.Tensor) -> None:
        # Below every score, and far enough from -inf for differences.
        self.peak = torch.full_like(like, 0.5 * torch.finfo(like.dtype).min)
        self.total = torch.zeros_like(like)  # of e^(score - peak)

    def add(self, anchors: slice, scores: torch.Tensor, dim: int) -> None:
        """Add the scores of these anchors with their negatives along `dim`."""
        before = self.peak[anchors]
        peak = torch.maximum(before, scores.amax(dim=dim))
        part = (scores - peak.unsqueeze(dim)).exp_().sum(dim=dim)
        self.total[anchors] = self.total[anchors] * torch.exp(before - peak) + part
        self.peak[anchors] = peak
