"""The loss of the union batch of all ranks, exact after the gradient averaging of DDP.

Every rank reports the global loss. The gradient in its own features is W times theirs of the global
loss, W the number of ranks, so that averaging parameter gradients over the ranks, as
DistributedDataParallel does, gives the gradient of one process with the whole batch. Ranks may
hold different numbers of rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from fmicl_core.checks import InvalidArgument
from fmicl_core.objective import AUTO
from fmicl_core.pairs import Pairs
from fmicl_core.ranks import check_union, ranks_differ, refused_by_rank
from fmicl_torch.dense import Rows
from fmicl_torch.inputs import Auto, Weight, largest_block

#: Backends of `torch.distributed` that take no tensors of the CPU, and what they take.
ACCELERATORS = {"nccl": "cuda", "xccl": "xpu"}


class Prepared(NamedTuple):
    """What a rank was given, checked.

    Args:
        rows: features by name.
        ids: whole numbers of the rows by argument, "ids" and "bank_ids", where they were given.
        pairs: pairs that count.
        implementation: name of a form, or "auto".
        fused: dtype of the fused products, or "" where no fused routine takes these features.
        weight: weight alpha of the negative term, or how it is found.
        bias: constant of z beside a learned scale, a scalar; or None.
    """

    rows: Rows
    ids: Rows
    pairs: Pairs
    implementation: str
    fused: str
    weight: Weight
    bias: torch.Tensor | None

    @property
    def constant(self) -> Prepared:
        """The same without derivatives."""
        rows = {name: side.detach() for name, side in self.rows.items()}
        return self._replace(rows=rows, bias=None if self.bias is None else self.bias.detach())

    @property
    def shared(self) -> dict[str, Any]:
        """By name, what must be the same on every rank: all but the rows and scalars' values."""
        sizes = {f"{name}.shape[{axis}]": side.shape[axis] for name, side in self.rows.items()
                 for axis in ((0, 1) if name == "bank" else (1,))}  # fmt: skip
        given = {name: "given" if name in self.ids else None for name in ("ids", "bank_ids")}
        given |= {"logit_scale": None if self.bias is None else "given"}
        given |= {"alpha": AUTO if isinstance(self.weight, Auto) else "a number"}
        options: dict[str, Any] = {"implementation": self.implementation, "fused": self.fused}
        # A rank would wait for gradients that another does not send.
        scalars = {} if self.bias is None else {"logit_bias": self.bias}
        wanted = [k for k, value in (self.rows | scalars).items() if value.requires_grad]
        options["requires_grad"] = wanted
        return sizes | {"dtype": self.rows["x"].dtype} | options | given


class Ranks:
    """The ranks that share a batch, and how many rows each holds.

    Args:
        group: process group of `torch.distributed`.
        x: features of this rank, or what was given for them.
    """

    def __init__(self, group: dist.ProcessGroup, x: Any) -> None:
        self.group, self.rank, self.count = group, dist.get_rank(group), dist.get_world_size(group)
        self.sizes: list[int] = []
        self.device = torch.device(ACCELERATORS.get(dist.get_backend(group), "cpu"))
        if isinstance(x, torch.Tensor) and x.device.type == self.device.type:
            self.device = x.device  # of several, the one that this rank works on

    def agree(self, prepare: Callable[[], Prepared], same: dict[str, Any]) -> Prepared:
        """What `prepare` makes of this rank's features, after every rank has made its own.

        A rank that refuses its features tells the others, so that all of them raise: one that went
        on would wait for it until the group's timeout.

        Args:
            prepare: function that checks what this rank was given.
            same: options by name, which all ranks must share.

        Raises:
            ValueError: this or another rank refused its features, ranks differ in what they must
                share, the union holds fewer than two rows, or a rank holds none.
        """
        made, error = None, None
        try:
            made = prepare()
        except InvalidArgument as refused:
            error = refused
        rows, shared = (0, {}) if made is None else (len(made.rows["x"]), made.shared)
        shared |= same
        mine = [error is not None, rows, zlib.crc32(repr(shared).encode())]
        everyone = self._exchange(mine)
        if any(refused for refused, _, _ in everyone):
            self.raise_first(error)
        if len({digest for _, _, digest in everyone}) > 1:
            self._raise_difference(shared)
        self.sizes = [size for _, size, _ in everyone]
        check_union(self.sizes)
        assert made is not None
        return made

    def _exchange(self, mine: list[int]) -> list[list[int]]:
        """The numbers of every rank, in order of rank, in exchange for those of this one."""
        numbers = torch.tensor(mine, dtype=torch.int64, device=self.device)
        parts = [torch.empty_like(numbers) for _ in range(self.count)]
        dist.all_gather(parts, numbers, group=self.group)
        everyone: list[list[int]] = torch.stack(parts).tolist()
        return everyone

    def raise_first(self, error: InvalidArgument | None) -> None:
        """Raise this rank's error or, where it has none, that of the first rank that has one.

        Every rank has to call it.
        """
        messages = self._objects(None if error is None else str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise refused_by_rank(rank, message)

    def _raise_difference(self, shared: dict[str, Any]) -> None:
        everyone = self._objects({name: repr(value) for name, value in shared.items()})
        for name in dict.fromkeys(name for values in everyone for name in values):
            values = [values.get(name) for values in everyone]
            if len(set(values)) > 1:
                raise ranks_differ(name, values)

    def _objects(self, mine: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.count
        index = self.device.index if self.device.type == "cuda" else None
        with nullcontext() if index is None else torch.cuda.device(index):
            dist.all_gather_object(everyone, mine, group=self.group)
        return everyone

    @property
    def total(self) -> int:
        """Rows of the union."""
        return sum(self.sizes)

    def largest_block(self, rows: Rows, has_ids: bool) -> tuple[int, int]:
        """Rows and columns of the largest block of pairs of the union."""
        n, k = largest_block(rows, has_ids)
        return (n, k) if "bank" in rows and not has_ids else (self.total, max(k, self.total))

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """This rank's part of what holds an entry for each row of the union."""
        return values.split(self.sizes)[self.rank]

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks in order of rank, with gradient."""
        return _Gather.apply(rows, self)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the union of one value a row, with gradient; a scalar."""
        return _Total.apply(values.sum() / self.total, self)


class _Gather(torch.autograd.Function):
    """The rows of all ranks, in order of rank; its adjoint is `_SumOfParts`."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        longest = max(ranks.sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in ranks.sizes]
        dist.all_gather(parts, padded, group=ranks.group)
        return torch.cat([part[:size] for part, size in zip(parts, ranks.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every rank computes the same loss of the union, so the sum over ranks is W times the
        # gradient, as it should be.
        return _SumOfParts.apply(grad, ctx.ranks), None


class _SumOfParts(torch.autograd.Function):
    """This rank's rows of the sum over the ranks; its adjoint is `_Gather`."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        total = rows.clone(memory_format=torch.contiguous_format)  # rows may be another's, too
        dist.all_reduce(total, group=ranks.group)
        return ranks.own(total).clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Gather.apply(grad, ctx.ranks), None


class _SumOverRanks(torch.autograd.Function):
    """The sum over the ranks of a scalar; it is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        total = part.clone()
        dist.all_reduce(total, group=ranks.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _SumOverRanks.apply(grad, ctx.ranks), None


class _Total(_SumOverRanks):
    """The sum over the ranks of a part of the loss, whose gradient arrives on every rank alike."""

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        if torch.is_grad_enabled():
            return _SumOverRanks.apply(grad, ctx.ranks), None
        return ctx.ranks.count * grad, None  # no message needed
