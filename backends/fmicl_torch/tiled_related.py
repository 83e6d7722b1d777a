"""InfoNCE with memory linear in the batch: two passes over tiles, exact.

A softmax has a normaliser, unlike f-MICL's plain mean: the first pass finds every anchor's
log-sum-exp, the second, only where a gradient is wanted, the weights and what they pull.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Pairs
from fmicl_core.related import info_nce_anchors
from fmicl_torch.dense import Rows
from fmicl_torch.ids import Numbers, sort_rows
from fmicl_torch.softmax import (
    NAMES,
    LogSum,
    Side,
    SoftmaxTiles,
    add_up,
    pull,
    pull_views,
    softmaxes_of,
)
from fmicl_torch.transforms import OnceDifferentiable, along, loops_under_vmap

Softmax = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def tiled_info_nce(rows: Rows, pairs: Pairs, numbers: Numbers | None) -> torch.Tensor:
    """InfoNCE in two passes, once differentiable; equals

        positive = (x * y).sum(dim=1)
        every = cat([positive[:, None], other_scores], dim=1)
        (logsumexp(every, dim=1) - positive).mean()

    averaged over the anchor views, with other_scores (N, all negatives of the anchor, and positives
    beside y_i); of a single array logsumexp(other_scores, dim=1), and 0 without a positive.
    Decoupled, `every` is other_scores, which are those of negatives alone.

    Args:
        rows: features by the names "x" (N, D) and, if given, "y" (N, D) and "bank" (K, D), whose
            products are the scores.
        pairs: pairs that count.
        numbers: numbers of the rows; None without ids.
    """
    ranked: Rows = {}
    counted = None
    if numbers is not None:
        counted = numbers.same > 1 if pairs.single else None
        rows, ranked, counted = sort_rows(rows, numbers.by_name, counted)
    sides = [rows.get(name) for name in NAMES]
    ids = ranked.get("x"), ranked.get("bank"), counted
    function = _InfoNCE if torch.compiler.is_compiling() else _InfoNCEInBothModes
    tile = tile_size(rows["x"].device.type)
    options = pairs.negatives, pairs.positives, pairs.symmetric, pairs.decoupled
    loss, *_ = function.apply(*sides, *ids, *options, tile)
    return loss


@torch.library.custom_op("fmicl::info_nce", mutates_args=())
def _info_nce(
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    numbers: torch.Tensor | None,
    bank_numbers: torch.Tensor | None,
    counted: torch.Tensor | None,
    negatives: str,
    positives: str,
    symmetric: bool,
    decoupled: bool,
    tile: int,
) -> Softmax:
    """The loss, and three numbers that make up every anchor's softmax, (anchor views, N) each.

    These are: the largest of its scores but that of its own pair (x_i, y_i); the log-sum-exp of all
    that stand in its softmax, less that; and its margin, the log-sum-exp of all but its own pair
    less the score of this pair. In a single array, where there is no own pair, the margin is the
    log-sum-exp.

    Args:
        x, y, bank: features; y is None in a single array.
        numbers, bank_numbers: numbers of the rows of x, and y, and of those of the bank, or None.
        counted: (N,) anchors of a single array that count, which are those with a positive; None
            with two views, of which all do.
        negatives, positives, symmetric, decoupled: options that make the pairs.
        tile: rows and columns of a tile, at most.
    """
    options = negatives, positives, symmetric, decoupled, tile
    block = SoftmaxTiles(x, y, bank, numbers, bank_numbers, *options)
    positive = x.new_zeros(len(x)) if y is None else (x * y).sum(dim=1)
    sums = {name: LogSum(positive) for name in block.anchors}  # of all but the own pair
    add_up(block.tiles(), sums, sums)
    losses, peaks, logs, margins = softmaxes_of(sums, positive, counted, decoupled)
    return losses.mean(), peaks, logs, margins


@torch.library.custom_op("fmicl::info_nce_gradients", mutates_args=())
def _gradients(
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    numbers: torch.Tensor | None,
    bank_numbers: torch.Tensor | None,
    peaks: torch.Tensor,
    logs: torch.Tensor,
    margins: torch.Tensor,
    negatives: str,
    positives: str,
    symmetric: bool,
    decoupled: bool,
    tile: int,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients in x, y and bank; empty where not wanted."""
    options = negatives, positives, symmetric, decoupled, tile
    block = SoftmaxTiles(x, y, bank, numbers, bank_numbers, *options)
    rows = block.rows
    with torch.autocast(x.device.type, enabled=False):  # the backward pass may run inside one
        grads = {k: torch.zeros_like(rows[k]) for k, w in zip(NAMES, wanted, strict=True) if w}
        peak = dict(zip(block.anchors, peaks, strict=True))
        log = dict(zip(block.anchors, logs, strict=True))
        side = Side(rows, peak, log, grads)
        pull(block.tiles(), side, side)
        if y is not None:
            pull_views(rows, margins, decoupled, grads)
        for grad in grads.values():
            grad /= peaks.numel()
    return tuple(grads[name] if name in grads else x.new_empty(0) for name in NAMES)  # type: ignore[return-value]


@_info_nce.register_fake
def _(x, y, bank, numbers, bank_numbers, counted, negatives, positives, symmetric, *more):  # type: ignore[no-untyped-def]
    pairs = Pairs(negatives, positives, y is None, bank is not None, symmetric)
    views = len(info_nce_anchors(pairs))
    return x.new_empty(()), *(x.new_empty((views, len(x))) for _ in range(3))


@_gradients.register_fake
def _(x: torch.Tensor, *more: Any) -> tuple[torch.Tensor, ...]:
    sides = zip((x, *more[:2]), more[-1], strict=True)
    return tuple(torch.empty_like(side) if w else x.new_empty(0) for side, w in sides)


loops_under_vmap(_info_nce)
loops_under_vmap(_gradients)


class _Gradients(OnceDifferentiable):
    @staticmethod
    def forward(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # `wanted` comes flat: `torch.func` counts the entries of a list among the arguments.
        return _gradients(*arguments[:-3], arguments[-3:])


class _InfoNCE(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(  # Dynamo counts the parameters, to learn that there is no context among them
        x: torch.Tensor, y: torch.Tensor | None, bank: torch.Tensor | None,
        numbers: torch.Tensor | None, bank_numbers: torch.Tensor | None,
        counted: torch.Tensor | None, negatives: str, positives: str, symmetric: bool,
        decoupled: bool, tile: int,
    ) -> Softmax:  # fmt: skip
        return _info_nce(x, y, bank, numbers, bank_numbers, counted, negatives, positives,
                         symmetric, decoupled, tile)  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:5], *output[1:])
        ctx.save_for_forward(*inputs[:5], *output[1:])
        ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        wanted = list(ctx.needs_input_grad[:3])
        if torch.compiler.is_compiling():
            grads = _gradients(*ctx.saved_tensors, *ctx.options, wanted)
        else:
            grads = _Gradients.apply(*ctx.saved_tensors, *ctx.options, *wanted)
        scaled = [upstream * grad if want else None
                  for grad, want in zip(grads, wanted, strict=True)]  # fmt: skip
        return *scaled, *[None] * 8


class _InfoNCEInBothModes(_InfoNCE):
    """With forward mode, which Dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Any, None, None, None]:
        moves = tangents[:3]
        wanted = [move is not None for move in moves]
        grads = _Gradients.apply(*ctx.saved_tensors, *ctx.options, *wanted)
        return along(*zip(grads, moves, strict=True)), None, None, None
