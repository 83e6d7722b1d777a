"""The tiled form over ranks: shards of the batch pass round a ring, and no rank holds the union."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from fmicl_core.pairs import Block
from fmicl_torch.dense import Rows
from fmicl_torch.ranks import Ranks
from fmicl_torch.tiled import block_mean_and_gradients
from fmicl_torch.transforms import scaled_by


def travel(ranks: Ranks, rows: Rows, carried: Rows) -> Iterator[tuple[int, int, Rows]]:
    """The step, the rank and the rows of every guest, first this rank: one trip round the ring.

    Args:
        ranks: ranks that make up the ring.
        rows: arrays of this rank by name, which every rank gets to see.
        carried: arrays of this rank by name, which travel with its rows. At each step the values
            are those of the guest, to be changed in place; after the last step they are what all
            ranks have made of those of this rank.
    """
    for step in range(ranks.count):
        host = (ranks.rank - step) % ranks.count
        yield step, host, rows
        before = ranks.sizes[(host - 1) % ranks.count]
        # One after another, so that no more than one array is there twice.
        if step + 1 < ranks.count:
            rows = dict(rows)
            for name in rows:
                rows[name] = _pass_on(ranks, rows[name], before)
        for name in carried:
            carried[name] = _pass_on(ranks, carried[name], before)


def _pass_on(ranks: Ranks, tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Give a tensor to the next rank, and return one of so many rows from the rank before."""
    after, before = (
        dist.get_global_rank(ranks.group, (ranks.rank + step) % ranks.count) for step in (1, -1)
    )
    taken = tensor.new_empty(rows, *tensor.shape[1:])
    for request in dist.batch_isend_irecv([
        dist.P2POp(dist.isend, tensor.contiguous(), after, ranks.group),
        dist.P2POp(dist.irecv, taken, before, ranks.group),
    ]):  # fmt: skip
        request.wait()
    return taken


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
    differentiable. The shards go round the ring of ranks, and with each goes its gradient, which is
    complete when it is home again. Every rank works on its share of the tiles only, and symmetric
    blocks visit each pair of ranks once.

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
        wanted = dict(zip(names, ctx.needs_input_grad[8:], strict=True))  # the same on every rank
        own = dict(zip(names, sides, strict=True))
        guests = {name: own[name] for name in sorted({block.right for block in blocks})}
        lefts = {block.left for block in blocks}
        grads = {name: torch.zeros_like(own[name]) for name in lefts if wanted[name]}
        # Of the guests, complete when they are home again.
        carried = {name: torch.zeros_like(own[name]) for name in guests if wanted[name]}
        total = sides[0].new_zeros((), dtype=torch.float64)
        slope = None if bias is None else torch.zeros_like(bias)
        for step, host, others in travel(ranks, guests, carried):
            numbers = None if ranked is None else (ranked[ranks.rank], ranked[host])
            for block in blocks:
                here, count = step == 0, ranks.sizes[host]
                share = _share(block, ranks, step, count, weights is not None)
                if share == 0.0:
                    continue
                one_sided = here and block.symmetric
                mean, grad_left, grad_right, in_bias = block_mean_and_gradients(
                    own[block.left], None if one_sided else others[block.right], text,
                    here and block.skips_diagonal, grad, block.right in carried, fused, numbers,
                    weights, bias,
                )  # fmt: skip
                total += share * mean
                if block.left in grads:
                    grads[block.left].add_(grad_left, alpha=share)
                if block.right in carried and not one_sided:
                    carried[block.right].add_(grad_right, alpha=share)
                if grad and slope is not None:
                    slope += share * in_bias
        dist.all_reduce(total, group=ranks.group)
        for name, home in carried.items():
            grads[name] = home.add_(grads[name]) if name in grads else home
        ctx.save_for_backward(slope, *(grads.get(name) for name in names))
        ctx.count = ranks.count
        return total.to(sides[0].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        slope, *grads = ctx.saved_tensors
        in_bias = None if slope is None else ctx.count * grad * slope
        scale = ctx.count * grad
        sides = (None if side is None else scaled_by(scale, side) for side in grads)
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
