"""The tiled form over ranks: shards of the batch pass round a ring, and no rank holds the union."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from fmicl_core.pairs import Block
from fmicl_torch.dense import Rows
from fmicl_torch.distributed import Ranks
from fmicl_torch.tiled import block_mean_and_gradients


def ring_excess(
    rows: Rows, text: str, blocks: tuple[Block, ...], ranks: Ranks, fused: str = ""
) -> torch.Tensor:
    """Mean excess in the union, which no rank ever holds; O(N D / W) memory, once differentiable.

    Equals the mean excess of the gathered rows. The shards go round the ring of ranks, and with
    each goes its gradient, which is complete when it is home again. Every rank works on its share
    of the tiles only, and symmetric blocks visit each pair of ranks once.

    Args:
        rows: this rank's features by the names "x" (n, D), "y" (n, D) and, if given, "bank".
        text: text of the specification in the registry; its normalization has been applied.
        blocks: blocks of negative pairs.
        ranks: ranks that share the batch.
        fused: dtype of the products of the Triton routine; "" for plain tiles.
    """
    names = sorted({side for block in blocks for side in (block.left, block.right)})
    return _Ring.apply(text, blocks, ranks, fused, names, *(rows[name] for name in names))


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        text: str,
        blocks: tuple[Block, ...],
        ranks: Ranks,
        fused: str,
        names: list[str],
        *sides: torch.Tensor,
    ) -> torch.Tensor:
        grad = any(ctx.needs_input_grad)
        # Side by side, so that a shard travels as one message.
        own = torch.cat(sides, dim=1)
        guest, guest_grad = own, torch.zeros_like(own)
        own_grad = torch.zeros_like(own)
        total = own.new_zeros((), dtype=torch.float64)
        parts = {name: slice(i * sides[0].shape[1], (i + 1) * sides[0].shape[1])
                 for i, name in enumerate(names)}  # fmt: skip
        for step in range(ranks.count):
            for block in blocks:
                left, right = parts[block.left], parts[block.right]
                share = _share(block, ranks, step, len(guest))
                if share == 0.0:
                    continue
                here = step == 0
                one_sided = here and block.symmetric
                mean, grad_left, grad_right = block_mean_and_gradients(
                    own[:, left].contiguous(),
                    None if one_sided else guest[:, right].contiguous(),
                    text, here and block.skips_diagonal, grad, fused=fused,
                )  # fmt: skip
                total += share * mean
                if grad:
                    own_grad[:, left] += share * grad_left
                    if not one_sided:
                        guest_grad[:, right] += share * grad_right
            rows = ranks.sizes[(ranks.rank - step - 1) % ranks.count]
            if step + 1 < ranks.count:
                guest = ranks.pass_on(guest, rows)
            if grad:
                guest_grad = ranks.pass_on(guest_grad, rows)
        dist.all_reduce(total, group=ranks.group)
        own_grad += guest_grad
        ctx.save_for_backward(own_grad)
        ctx.widths, ctx.count = [side.shape[1] for side in sides], ranks.count
        return total.to(own.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (own_grad,) = ctx.saved_tensors
        sides = (ctx.count * grad * own_grad).split(ctx.widths, dim=1)
        return None, None, None, None, None, *sides


def _share(block: Block, ranks: Ranks, step: int, guests: int) -> float:
    """Weight of the mean over (own, guest) in the mean over all pairs of the block.

    0 where the pair of ranks is another rank's work: in a symmetric block each is visited once.
    """
    here = step == 0
    own, total = ranks.sizes[ranks.rank], ranks.total
    pairs = own * (guests - (here and block.skips_diagonal))
    weight = block.share * pairs / (total * (total - block.skips_diagonal))
    if here or not block.symmetric or 2 * step == ranks.count:
        return weight
    return 2.0 * weight if 2 * step < ranks.count else 0.0
