"""The softmaxes of InfoNCE, tile by tile: their scores, their running sums, and their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from fmicl_core.pairs import Pairs
from fmicl_core.related import SoftmaxBlock, info_nce_anchors, info_nce_blocks
from fmicl_torch.dense import Rows
from fmicl_torch.ids import ALL, NONE, SOME
from fmicl_torch.ops import TORCH
from fmicl_torch.sweep import equal_pairs, tiles_of

NAMES = ("x", "y", "bank")
#: A tile: its sides, its rows, its columns, its scores, whether columns are anchors.
Tile = tuple[str, str, slice, slice, torch.Tensor, bool]


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

    def tiles(
        self,
        softmaxes: Sequence[SoftmaxBlock] | None = None,
        guests: tuple[Rows, Rows] | None = None,
    ) -> Iterator[Tile]:
        """Every tile, whose scores may be overwritten.

        A symmetric block has its tiles on and above the diagonal. Pairs that do not count score
        -inf.

        Args:
            softmaxes: blocks that are visited; None for all.
            guests: rows of another rank, and their numbers, which stand on the right; or None.
        """
        rights, others = guests or (self.rows, self.numbers)
        for block, both, which in self.softmaxes if softmaxes is None else softmaxes:
            left, right = self.rows[block.left], rights[block.right]
            one_sided = block.symmetric and guests is None
            numbers = None
            if which != "every" and block.right in others:
                numbers = self.numbers[block.left], others[block.right]
            left_out = ALL if which == "different" else NONE
            sides = left, None if one_sided else right
            for i, j, state in tiles_of(*sides, numbers, self.tile):
                if numbers is not None and state == left_out:
                    continue
                s = left[i] @ right[j].T
                if numbers is not None and state == SOME:
                    equal = equal_pairs(numbers, i, j)
                    s.masked_fill_(equal if which == "different" else ~equal, -torch.inf)
                if block.skips_diagonal and guests is None and i == j:
                    s.fill_diagonal_(-torch.inf)
                columns = both and not (one_sided and i == j)  # there, the rows have all
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

    def merge(self, peak: torch.Tensor, total: torch.Tensor) -> None:
        """Add what another has summed up of other scores of the same anchors."""
        highest = torch.maximum(self.peak, peak)
        self.total *= torch.exp(self.peak - highest)
        self.total += total * torch.exp(peak - highest)
        self.peak = highest


def add_up(tiles: Iterable[Tile], sums: dict[str, LogSum], of_columns: dict[str, LogSum]) -> None:
    """Add the scores of tiles to the sums of the anchors among their rows and their columns."""
    for left, right, i, j, s, columns in tiles:
        sums[left].add(i, s, dim=1)
        if columns:
            of_columns[right].add(j, s, dim=0)


def softmaxes_of(
    sums: dict[str, LogSum],
    positive: torch.Tensor,
    counted: torch.Tensor | None,
    decoupled: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every anchor's loss, and the three numbers that `_info_nce` says; (anchor views, N) each.

    Args:
        sums: sums of the scores of the anchors by name, those of the pairs (x_i, y_i) excepted.
        positive: scores of the pairs (x_i, y_i); zeros in a single array.
        counted, decoupled: as for `_info_nce`.
    """
    peaks = torch.stack([total.peak for total in sums.values()])
    logs = torch.stack([total.total for total in sums.values()]).log_()
    margins = peaks - positive + logs
    if counted is not None:
        logs.masked_fill_(~counted, torch.inf)  # a softmax of zeros
        return margins.where(counted, 0.0), peaks, logs, margins
    if decoupled:
        return margins, peaks, logs, margins
    logs += TORCH.softplus(-margins)  # with the own pair, which may be alone
    logs = torch.where(margins == -torch.inf, positive - peaks, logs)
    return TORCH.softplus(margins), peaks, logs, margins


class Side(NamedTuple):
    """What stands on one side of tiles, by name.

    Args:
        rows: features.
        peaks, logs: numbers that make up the softmaxes of the anchors.
        grads: sums of what is pulled at the rows; an array whose gradient is not wanted has none.
    """

    rows: Rows
    peaks: Rows
    logs: Rows
    grads: Rows


def pull(tiles: Iterable[Tile], own: Side, others: Side) -> None:
    """Add to the gradients what the probabilities of tiles pull at their rows and columns."""
    for left, right, i, j, s, columns in tiles:
        weight = (s - own.peaks[left][i, None]).sub_(own.logs[left][i, None]).exp_()
        if columns:
            weight += s.sub_(others.peaks[right][j]).sub_(others.logs[right][j]).exp_()
        if left in own.grads:
            own.grads[left][i].addmm_(weight, others.rows[right][j])
        if right in others.grads:
            others.grads[right][j].addmm_(weight.T, own.rows[left][i])


def pull_views(rows: Rows, margins: torch.Tensor, decoupled: bool, grads: Rows) -> None:
    """Add to the gradients of x and y what the pairs (x_i, y_i) pull.

    That is every anchor's probability of its own pair less 1, in a form that keeps the digits.
    """
    less = torch.ones_like(margins) if decoupled else torch.sigmoid(margins)
    weight = -less.sum(dim=0)[:, None]
    for name, other in (("x", "y"), ("y", "x")):
        if name in grads:
            grads[name].addcmul_(weight, rows[other])
