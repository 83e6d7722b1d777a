"""InfoNCE over ranks in the tiled form: shards of the batch pass round a ring twice.

In the first trip a shard collects its anchors' log-sum-exps, in the second, made only where a
gradient is wanted, its gradient. Both are made in the forward pass, so that no rank waits for
another's backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from fmicl_core.forms import tile_size
from fmicl_core.pairs import Block, Pairs
from fmicl_core.related import SoftmaxBlock
from fmicl_torch.dense import Rows
from fmicl_torch.ids import Numbers, anchor_weights, sort_rows
from fmicl_torch.ranks import Ranks
from fmicl_torch.ring import travel
from fmicl_torch.softmax import (
    LogSum,
    Side,
    SoftmaxTiles,
    add_up,
    pull,
    pull_views,
    softmaxes_of,
)
from fmicl_torch.transforms import scaled_by


def ring_info_nce(rows: Rows, pairs: Pairs, numbers: Numbers | None, ranks: Ranks) -> torch.Tensor:
    """InfoNCE of the union, which no rank ever holds; O(N D / W) memory, once differentiable.

    Equals `tiled_info_nce` of the gathered rows and what ids add to it. Every rank works on its
    share of the tiles, and each pair of ranks is visited once for the softmaxes of both, where both
    sides of a block are anchors.

    Args:
        rows: this rank's features by the names "x" (n, D) and, if given, "y" (n, D), and "bank" (K,
            D), the same on every rank.
        pairs: pairs that count.
        numbers: numbers of the rows of all ranks; None without ids.
        ranks: ranks that share the batch.
    """
    weights, ranked, bank_numbers = None, None, None
    if numbers is not None:
        weights = ranks.own(anchor_weights(pairs, numbers, rows["x"].dtype))
        own = {name: v if name == "bank" else ranks.own(v) for name, v in numbers.by_name.items()}
        rows, own, weights = sort_rows(rows, own, weights)
        ranked = [part.sort().values for part in numbers.own.split(ranks.sizes)]
        bank_numbers = own.get("bank")
    given = pairs, ranks, ranked, bank_numbers, weights, list(rows)
    loss: torch.Tensor = _RingInfoNCE.apply(*given, *rows.values())
    return loss


class _RingInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pairs: Pairs,
        ranks: Ranks,
        ranked: list[torch.Tensor] | None,
        bank_numbers: torch.Tensor | None,
        weights: torch.Tensor | None,
        names: list[str],
        *sides: torch.Tensor,
    ) -> torch.Tensor:
        rows = dict(zip(names, sides, strict=True))
        trips = _Trips(rows, pairs, ranks, ranked, bank_numbers)
        counted = None if weights is None or not pairs.single else weights != 0
        losses, *softmaxes = softmaxes_of(trips.sums(), trips.positive, counted, pairs.decoupled)
        total = losses.sum(dtype=torch.float64) / len(losses)
        wanted = [name for name, want in zip(names, ctx.needs_input_grad[6:], strict=True) if want]
        grads = trips.gradients(softmaxes, wanted) if wanted else {}
        if weights is not None:
            total += trips.pull_of_ids(weights, grads)
        total /= ranks.total
        dist.all_reduce(total, group=ranks.group)
        ctx.save_for_backward(*(grads.get(name) for name in names))
        ctx.factor = ranks.count / ranks.total
        return total.to(sides[0].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[Any, ...]:
        factor, grads = ctx.factor * upstream, ctx.saved_tensors
        return *[None] * 6, *(None if grad is None else scaled_by(factor, grad) for grad in grads)


class _Trips:
    """The two trips round the ring, of sums over this rank's anchors, not yet divided by N.

    Args:
        rows: this rank's features by name, in order of their numbers.
        pairs, ranks: as for `ring_info_nce`.
        ranked: numbers of the rows of every rank in their order; None without ids.
        bank_numbers: numbers of the bank's rows, or None.
    """

    def __init__(
        self,
        rows: Rows,
        pairs: Pairs,
        ranks: Ranks,
        ranked: list[torch.Tensor] | None,
        bank_numbers: torch.Tensor | None,
    ) -> None:
        self.rows, self.pairs, self.ranks, self.ranked = rows, pairs, ranks, ranked
        numbers = None if ranked is None else ranked[ranks.rank]
        options = pairs.negatives, pairs.positives, pairs.symmetric, pairs.decoupled
        x, size = rows["x"], tile_size(rows["x"].device.type)
        sides = rows.get("y"), rows.get("bank"), numbers, bank_numbers
        self.tiles = SoftmaxTiles(x, *sides, *options, size)
        travelling = [b for b in self.tiles.softmaxes if b.block.right != "bank"]
        self.guests = sorted({b.block.right for b in travelling})
        #: Names of the guests that are anchors.
        self.anchors = sorted({b.block.right for b in travelling if b.both})
        #: Scores of the pairs (x_i, y_i).
        self.positive = x.new_zeros(len(x)) if pairs.single else (x * rows["y"]).sum(dim=1)
        self.alike: Rows = {}

    def sums(self) -> dict[str, LogSum]:
        """The log-sum-exps of this rank's anchors by name, without the pairs (x_i, y_i)."""
        sums = {name: LogSum(self.positive) for name in self.tiles.anchors}
        carried = {name: _packed(LogSum(self.positive)) for name in self.anchors}
        others = {b.right for b in self._blocks_of_ids} | {b.left for b in self._blocks_of_ids}
        self.alike = {name: torch.zeros_like(self.rows[name]) for name in others}
        seen = {name: self.rows[name] for name in sorted({*self.guests, *others})}
        for step, host, guests in travel(self.ranks, seen, carried):
            of_columns = sums if step == 0 else {k: _log_sum(v) for k, v in carried.items()}
            add_up(self._tiles(step, host, guests), sums, of_columns)
            for name in others:
                self._add_alike(name, host, guests[name])
        for name, home in carried.items():
            sums[name].merge(*home.unbind(dim=1))
        return sums

    def gradients(self, softmaxes: Sequence[torch.Tensor], wanted: Sequence[str]) -> Rows:
        """The gradients of the arrays with the names in `wanted`, which are those of every rank.

        Args:
            softmaxes: peaks, logs and margins, as from `softmaxes_of`.
            wanted: names of arrays.
        """
        peaks, logs, margins = softmaxes
        views = self.tiles.anchors
        peak, log = (dict(zip(views, values, strict=True)) for values in (peaks, logs))
        lefts = {b.block.left for b in self.tiles.softmaxes}
        # Of what stands on the right alone, the gradient is the one that travels.
        here = [name for name in wanted if name in lefts or name not in self.guests]
        grads = {name: torch.zeros_like(self.rows[name]) for name in here}
        seen = {name: self.rows[name] for name in self.guests}
        seen |= {f"softmax of {k}": torch.stack([peak[k], log[k]], dim=1) for k in self.anchors}
        carried = {k: torch.zeros_like(self.rows[k]) for k in self.guests if k in wanted}
        own = Side(self.rows, peak, log, grads)
        for step, host, guests in travel(self.ranks, seen, carried):
            others = own._replace(grads=carried | grads)
            if step:
                both = {k: guests[f"softmax of {k}"].unbind(dim=1) for k in self.anchors}
                peak, log = ({k: both[k][m] for k in self.anchors} for m in (0, 1))
                others = Side(guests, peak, log, carried)
            pull(self._tiles(step, host, guests), own, others)
        for name, home in carried.items():
            grads[name] = home.add_(grads[name]) if name in grads else home
        if not self.pairs.single:
            pull_views(self.rows, margins, self.pairs.decoupled, grads)
        for grad in grads.values():
            grad /= len(views)
        return grads

    def pull_of_ids(self, weights: torch.Tensor, grads: Rows) -> torch.Tensor:
        """What the loss of (x_i, y_i) lacks of that of all positives; adds its gradient to `grads`.

        Args:
            weights: weights of this rank's anchors' positives, equal where numbers are.
            grads: gradients by name; empty where none are wanted.
        """
        assert self.ranked is not None
        own = self.ranked[self.ranks.rank]
        first, column = torch.searchsorted(own, own), weights[:, None]
        others = {k: sums[first] - self.rows[k] for k, sums in self.alike.items()}
        total = self.positive.new_zeros((), dtype=torch.float64)
        for block in self._blocks_of_ids:
            of_left = column * others[block.right]
            total -= block.share * (self.rows[block.left] * of_left).sum()
            if block.left in grads:
                grads[block.left].sub_(of_left, alpha=block.share)
            if block.right in grads:
                grads[block.right].addcmul_(column, others[block.left], value=-block.share)
        if not self.pairs.single:
            total += ((1.0 - weights) * self.positive).sum()
            for name, other in (("x", "y"), ("y", "x")):
                if name in grads:
                    grads[name].addcmul_(1.0 - column, self.rows[other])
        return total

    @property
    def _blocks_of_ids(self) -> tuple[Block, ...]:
        return () if self.ranked is None else self.pairs.positive_blocks

    def _tiles(self, step: int, host: int, guests: Rows) -> Any:
        softmaxes = _visited(self.tiles.softmaxes, step, self.ranks.count)
        if step == 0:
            return self.tiles.tiles(softmaxes)
        numbers = {} if self.ranked is None else dict.fromkeys(self.guests, self.ranked[host])
        return self.tiles.tiles(softmaxes, (guests, numbers))

    def _add_alike(self, name: str, host: int, guests: torch.Tensor) -> None:
        """Add every guest to the first row of this rank that has its number, if there is one."""
        assert self.ranked is not None
        own, theirs = self.ranked[self.ranks.rank], self.ranked[host]
        place = torch.searchsorted(own, theirs).clamp_(max=len(own) - 1)
        here = own[place] == theirs
        self.alike[name].index_add_(0, place[here], guests[here])


def _visited(softmaxes: Sequence[SoftmaxBlock], step: int, count: int) -> list[SoftmaxBlock]:
    """The blocks in which this rank visits the guests of a step; as `_share` in `ring`.

    In a symmetric block each pair of ranks is visited once, for the softmaxes of both; by each for
    its own where either would be the other's guest at the same step.
    """
    if step == 0:
        return list(softmaxes)
    return [
        b._replace(both=b.both and not (b.block.symmetric and 2 * step == count))
        for b in softmaxes
        if b.block.right != "bank" and (not b.block.symmetric or 2 * step <= count)
    ]


def _packed(sums: LogSum) -> torch.Tensor:
    """Peaks and totals side by side, which travel as one array."""
    return torch.stack([sums.peak, sums.total], dim=1)


def _log_sum(packed: torch.Tensor) -> LogSum:
    """The sums in such an array, which change with them."""
    sums = LogSum(packed[:, 0])
    sums.peak, sums.total = packed.unbind(dim=1)
    return sums
