"""The loss of the union batch of all ranks, exact after the gradient averaging of DDP.

Every rank reports the global loss. The gradient in its own features is W times theirs of the global
loss, W the number of ranks, so that averaging parameter gradients over the ranks, as
DistributedDataParallel does, gives the gradient of one process with the whole batch. Ranks may
hold different numbers of rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from fmicl_core import FMICL
from fmicl_core.checks import check_union, invalid
from fmicl_core.objective import Block
from fmicl_torch.dense import Rows
from fmicl_torch.registry import objective_of
from fmicl_torch.tiled import block_mean_and_gradients

#: False, True for the default group, or a group.
Distributed = bool | dist.ProcessGroup


class Ranks:
    """The ranks that share a batch, and how many rows each holds.

    Args:
        group: of `torch.distributed`.
        rows: of this rank.

    Raises:
        ValueError: the union holds fewer than two rows, or a rank holds none.
    """

    def __init__(self, group: dist.ProcessGroup, rows: torch.Tensor) -> None:
        self.group, self.rank, self.count = group, dist.get_rank(group), dist.get_world_size(group)
        mine = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(counts, mine, group=group)
        self.sizes: list[int] = torch.cat(counts).tolist()
        check_union(self.sizes)

    @property
    def total(self) -> int:
        """Rows of the union."""
        return sum(self.sizes)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks in order of rank, with gradient."""
        return _Gather.apply(rows, self)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the union of one value a row, with gradient; a scalar."""
        return _Total.apply(values.sum() / self.total, self)

    def pass_on(self, tensor: torch.Tensor, rows: int) -> torch.Tensor:
        """Give a tensor to the next rank and take one of so many rows from the one before."""
        after, before = (
            dist.get_global_rank(self.group, (self.rank + step) % self.count) for step in (1, -1)
        )
        taken = tensor.new_empty(rows, *tensor.shape[1:])
        for request in dist.batch_isend_irecv([
            dist.P2POp(dist.isend, tensor.contiguous(), after, self.group),
            dist.P2POp(dist.irecv, taken, before, self.group),
        ]):  # fmt: skip
            request.wait()
        return taken


def ranks_of(distributed: Distributed, rows: torch.Tensor) -> Ranks | None:
    """The ranks to take the loss over, or None for this process alone.

    Raises:
        ValueError: `distributed` is no bool and no group, or no group has been initialised.
    """
    if distributed is False:
        return None
    if not dist.is_available() or not dist.is_initialized():
        raise invalid("distributed", "False, or torch.distributed to be initialised", distributed)
    group = dist.group.WORLD if distributed is True else distributed
    if not isinstance(group, dist.ProcessGroup):
        raise invalid("distributed", "True, False or a process group", distributed)
    return Ranks(group, rows) if dist.get_world_size(group) > 1 else None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        longest = max(ranks.sizes)
        padded = rows.new_zeros(longest, rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in ranks.sizes]
        dist.all_gather(parts, padded, group=ranks.group)
        return torch.cat([part[:size] for part, size in zip(parts, ranks.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every rank computes the same loss of the union, so the sum over ranks is W times the
        # gradient, as it should be.
        ranks = ctx.ranks
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ranks.group)
        return grad.split(ranks.sizes)[ranks.rank], None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.count = ranks.count
        total = part.clone()
        dist.all_reduce(total, group=ranks.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.count * grad, None


def ring_uniformity(rows: Rows, number: int, ranks: Ranks, kernel: str = "") -> torch.Tensor:
    """Uniformity of the union, which no rank ever holds; O(N D / W) memory, once differentiable.

    Equals `dense_uniformity` of the gathered rows. The shards go round the ring of ranks, and with
    each goes its gradient, which is complete when it is home again. Every rank works on its share
    of the tiles only, and symmetric blocks visit each pair of ranks once.

    Args:
        rows: this rank's features by the names "x" (n, D), "y" (n, D) and, if given, "bank".
        number: of the objective in the registry; its normalization has been applied.
        ranks: that share the batch.
        kernel: dtype of the products of the Triton kernel; "" for plain tiles.
    """
    names = sorted({side for block in objective_of(number).blocks(False)
                    for side in (block.left, block.right)})  # fmt: skip
    return _Ring.apply(number, ranks, kernel, names, *(rows[name] for name in names))


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, number: int, ranks: Ranks, kernel: str, names: list[str], *sides: torch.Tensor
    ) -> torch.Tensor:
        grad = any(ctx.needs_input_grad)
        # Side by side, so that a shard travels as one message.
        own = torch.cat(sides, dim=1)
        guest, guest_grad = own, torch.zeros_like(own)
        own_grad = torch.zeros_like(own)
        total = own.new_zeros((), dtype=torch.float64)
        parts = {name: slice(i * sides[0].shape[1], (i + 1) * sides[0].shape[1])
                 for i, name in enumerate(names)}  # fmt: skip
        objective = objective_of(number)
        for step in range(ranks.count):
            for block in objective.blocks(False):
                left, right = parts[block.left], parts[block.right]
                share = _share(block, objective, ranks, step, len(guest))
                if share == 0.0:
                    continue
                here = step == 0
                one_sided = here and block.symmetric
                mean, grad_left, grad_right = block_mean_and_gradients(
                    own[:, left].contiguous(),
                    None if one_sided else guest[:, right].contiguous(),
                    number, here and block.skips_diagonal, grad, kernel=kernel,
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
        return None, None, None, None, *sides


def _share(block: Block, objective: FMICL, ranks: Ranks, step: int, guests: int) -> float:
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
