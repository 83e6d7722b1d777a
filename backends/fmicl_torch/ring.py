"""The tiled form over ranks: shards of the batch pass round a ring, and no rank holds the union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from fmicl_core.pairs import Block
from fmicl_torch.dense import Rows
from fmicl_torch.distributed import Ranks
from fmicl_torch.tiled import block_mean_and_gradients


def ring_mean(
    rows: Rows,
    text: str,
    blocks: Sequence[Block],
    ranks: Ranks,
    fused: str = "",
    numbers: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over blocks of the union, which no rank ever holds; O(N D / W) memory.

    Equals the mean of the gathered rows, as `tiled_block_mean` makes it, and is once
    differentiable. The shards go round the
    ring of ranks, and with each goes its gradient, which is complete when it is home again. Every
    rank works on its share of the tiles only, and symmetric blocks visit each pair of ranks once.

    Args:
        rows: this rank's features by the names "x" (n, D) and "y" (n, D), in order of their
            numbers.
        text: text of the specification in the registry; its normalization has been applied.
        blocks: blocks of pairs.
        ranks: ranks that share the batch.
        fused: dtype of the products of the Triton routine; "" for plain tiles.
        numbers: (N,) numbers of the rows of all ranks; None where all are different.
        weights: (n,) weights of this rank's anchors, for positives; None for negatives.
        bias: constant of z in place of that of the similarity, a scalar; or None. Its derivative
            is that of this rank's share of the tiles, times the number of ranks.
    """
    ranked = (
        None if numbers is None else [part.sort().values for part in numbers.split(ranks.sizes)]
    )
    given = text, blocks, ranks, fused, ranked, weights
    return _Ring.apply(*given, list(rows), bias, *rows.values())


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        text: str,
        blocks: Sequence[Block],
        ranks: Ranks,
        fused: str,
        ranked: list[torch.Tensor] | None,
        weights: torch.Tensor | None,
        names: list[str],
        bias: torch.Tensor | None,
        *sides: torch.Tensor,
    ) -> torch.Tensor:
        grad = any(ctx.needs_input_grad)
        # Side by side, so that a shard travels as one message.
        own = torch.cat(sides, dim=1)
        guest, guest_grad = own, torch.zeros_like(own)
        own_grad = torch.zeros_like(own)
        total = own.new_zeros((), dtype=torch.float64)
        slope = None if bias is None else torch.zeros_like(bias)
        parts = {name: slice(i * sides[0].shape[1], (i + 1) * sides[0].shape[1])
                 for i, name in enumerate(names)}  # fmt: skip
        for step in range(ranks.count):
            host = (ranks.rank - step) % ranks.count  # whose rows are the guests
            numbers = None if ranked is None else (ranked[ranks.rank], ranked[host])
            for block in blocks:
                left, right = parts[block.left], parts[block.right]
                share = _share(block, ranks, step, len(guest), weights is not None)
                if share == 0.0:
                    continue
                here = step == 0
                one_sided = here and block.symmetric
                mean, grad_left, grad_right, in_bias = block_mean_and_gradients(
                    own[:, left].contiguous(),
                    None if one_sided else guest[:, right].contiguous(),
                    text, here and block.skips_diagonal, grad, True, fused, numbers, weights, bias,
                )  # fmt: skip
                total += share * mean
                if grad:
                    own_grad[:, left] += share * grad_left
                    if not one_sided:
                        guest_grad[:, right] += share * grad_right
                    if slope is not None:
                        slope += share * in_bias
            rows = ranks.sizes[(host - 1) % ranks.count]
            if step + 1 < ranks.count:
                guest = ranks.pass_on(guest, rows)
            if grad:
                guest_grad = ranks.pass_on(guest_grad, rows)
        dist.all_reduce(total, group=ranks.group)
        own_grad += guest_grad
        ctx.save_for_backward(own_grad, slope)
        ctx.widths, ctx.count = [side.shape[1] for side in sides], ranks.count
        return total.to(own.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        own_grad, slope = ctx.saved_tensors
        in_bias = None if slope is None else ctx.count * grad * slope
        sides = (ctx.count * grad * own_grad).split(ctx.widths, dim=1)
        return *[None] * 7, in_bias, *sides


def _share(block: Block, ranks: Ranks, step: int, guests: int, positives: bool) -> float:
    """Weight of the mean over (own, guest) in the mean over the block.

    0 where the pair of ranks is another rank's work: in a symmetric block each is visited once.
    """
    here = step == 0
    own, total = ranks.sizes[ranks.rank], ranks.total
    weight = block.share * own / total  # a mean over the anchors
    if not positives:  # a mean over all pairs
        weight *= (guests - (here and block.skips_diagonal)) / (total - block.skips_diagonal)
    if here or not block.symmetric or 2 * step == ranks.count:
        return weight
    return 2.0 * weight if 2 * step < ranks.count else 0.0
