"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Block
from fmicl_core.related import info_nce_anchors, info_nce_blocks
from fmicl_torch.dense import Rows
from fmicl_torch.ops import TORCH
from fmicl_torch.transforms import OnceDifferentiable, along, loops_under_vmap

NAMES = ("x", "y", "bank")
Softmax = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def tiled_info_nce(rows: Rows, temperature: float, negatives: str) -> torch.Tensor:
    """InfoNCE in two passes, once differentiable; equals

        positive = (x * y).sum(dim=1) / temperature
        every = cat([positive[:, None], negative_scores], dim=1)
        (logsumexp(every, dim=1) - positive).mean()

    averaged over the anchor views, with negative_scores (N, all negatives of the anchor).

    Args:
        rows: features by the names "x" (N, D), "y" (N, D) and, if given, "bank" (K, D).
        temperature: temperature > 0 that scores are divided by.
        negatives: name of the scheme of negatives.
    """
    sides = [rows.get(name) for name in NAMES]
    function = _InfoNCE if torch.compiler.is_compiling() else _InfoNCEInBothModes
    tile = tile_size(rows["x"].device.type)
    loss, *_ = function.apply(*sides, negatives, temperature, tile)
    return loss


@torch.library.custom_op("fmicl::info_nce", mutates_args=())
def _info_nce(
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    negatives: str,
    temperature: float,
    tile: int,
) -> Softmax:
    """The loss, and three numbers that make up every anchor's softmax, (anchor views, N) each.

    These are: the largest score of its negatives; the log-sum-exp of all its scores, less that; and
    its margin, the log-sum-exp of the negatives less the score of the positive.
    """
    rows = _by_name(x, y, bank)
    positive = (x * y).sum(dim=1) / temperature
    anchors = info_nce_anchors(negatives, bank is not None)
    sums = {name: _LogSum(positive) for name, _ in anchors}  # of the negatives alone
    for block, i, j, s, columns in _score_tiles(rows, negatives, temperature, tile):
        sums[block.left].add(i, s, dim=1)
        if columns:
            sums[block.right].add(j, s, dim=0)
    peaks = torch.stack([total.peak for total in sums.values()])
    logs = torch.stack([total.total for total in sums.values()]).log_()
    margins = peaks - positive + logs
    logs += TORCH.softplus(-margins)  # with the positive
    return TORCH.softplus(margins).mean(), peaks, logs, margins


@torch.library.custom_op("fmicl::info_nce_gradients", mutates_args=())
def _gradients(
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    peaks: torch.Tensor,
    logs: torch.Tensor,
    margins: torch.Tensor,
    negatives: str,
    temperature: float,
    tile: int,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients in x, y and bank; empty where not wanted."""
    rows = _by_name(x, y, bank)
    with torch.autocast(x.device.type, enabled=False):  # the backward pass may run inside one
        grads = {k: torch.zeros_like(rows[k]) for k, w in zip(NAMES, wanted, strict=True) if w}
        names = [name for name, _ in info_nce_anchors(negatives, bank is not None)]
        peak, log = dict(zip(names, peaks, strict=True)), dict(zip(names, logs, strict=True))
        for block, i, j, s, columns in _score_tiles(rows, negatives, temperature, tile):
            weight = (s - peak[block.left][i, None]).sub_(log[block.left][i, None]).exp_()
            if columns:
                weight += s.sub_(peak[block.right][j]).sub_(log[block.right][j]).exp_()
            if block.left in grads:
                grads[block.left][i].addmm_(weight, rows[block.right][j])
            if block.right in grads:
                grads[block.right][j].addmm_(weight.T, rows[block.left][i])
        # Of every anchor's positive: its probability less 1, in a form that keeps the digits.
        pull = -torch.sigmoid(margins).sum(dim=0)[:, None]
        for name, other in (("x", y), ("y", x)):
            if name in grads:
                grads[name].addcmul_(pull, other)
        for grad in grads.values():
            grad /= temperature * peaks.numel()
    return tuple(grads[name] if name in grads else x.new_empty(0) for name in NAMES)  # type: ignore[return-value]


def _by_name(x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None) -> Rows:
    return {"x": x, "y": y} | ({} if bank is None else {"bank": bank})


def _score_tiles(
    rows: Rows, negatives: str, temperature: float, tile: int
) -> Iterator[tuple[Block, slice, slice, torch.Tensor, bool]]:
    """Every tile: its block, its rows, its columns, its scores, and whether columns are anchors.

    A symmetric block has its tiles on and above the diagonal. Pairs that do not count score
    -inf. The scores may be overwritten.
    """
    for block, both in info_nce_blocks(negatives, "bank" in rows):
        left, right = rows[block.left], rows[block.right]
        for i in range(0, len(left), tile):
            scaled = left[i : i + tile] / temperature
            for j in range(i if block.symmetric else 0, len(right), tile):
                s = scaled @ right[j : j + tile].T
                if block.skips_diagonal and i == j:
                    s.fill_diagonal_(-torch.inf)
                columns = both and not (block.symmetric and i == j)  # there, the rows have all
                yield block, slice(i, i + tile), slice(j, j + tile), s, columns


class _LogSum:
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


@_info_nce.register_fake
def _(
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    negatives: str,
    temperature: float,
    tile: int,
) -> Softmax:
    views = len(info_nce_anchors(negatives, bank is not None))
    return x.new_empty(()), *(x.new_empty((views, len(x))) for _ in range(3))  # type: ignore[return-value]


@_gradients.register_fake
def _(x, y, bank, peaks, logs, margins, negatives, temperature, tile, wanted):  # type: ignore[no-untyped-def]
    sides = zip((x, y, bank), wanted, strict=True)
    return tuple(torch.empty_like(side) if w else x.new_empty(0) for side, w in sides)


loops_under_vmap(_info_nce)
loops_under_vmap(_gradients)


class _Gradients(OnceDifferentiable):
    @staticmethod
    def forward(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return _gradients(*arguments)


class _InfoNCE(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(  # Dynamo counts the parameters, to learn that there is no context among them
        x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None, negatives: str,
        temperature: float, tile: int,
    ) -> Softmax:  # fmt: skip
        return _info_nce(x, y, bank, negatives, temperature, tile)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.save_for_forward(*inputs[:3], *output[1:])
        ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        wanted = list(ctx.needs_input_grad[:3])
        gradients = _gradients if torch.compiler.is_compiling() else _Gradients.apply
        grads = gradients(*ctx.saved_tensors, *ctx.options, wanted)
        scaled = [upstream * grad if want else None
                  for grad, want in zip(grads, wanted, strict=True)]  # fmt: skip
        return *scaled, None, None, None


class _InfoNCEInBothModes(_InfoNCE):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, None, None, None]:
        moves = tangents[:3]
        wanted = [move is not None for move in moves]
        grads = _gradients(*ctx.saved_tensors, *ctx.options, wanted)
        return along(*zip(grads, moves, strict=True)), None, None, None
