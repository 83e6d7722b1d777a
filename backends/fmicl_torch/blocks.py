"""Means over blocks of pairs, in whatever form, of this process or of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fmicl_core.forms import FUSED, choose_form
from fmicl_core.pairs import Block, mean_over_blocks
from fmicl_torch.dense import Rows, dense_block_mean, dense_positive_mean, positive_scores
from fmicl_torch.ids import Numbers, anchor_weights, share_of_negatives, sides_of, sort_rows
from fmicl_torch.inputs import largest_block
from fmicl_torch.ranks import Prepared, Ranks
from fmicl_torch.registry import KNOWN
from fmicl_torch.ring import ring_mean
from fmicl_torch.tiled import tiled_block_mean


class Batch(NamedTuple):
    """Rows that blocks of pairs are made of.

    Args:
        rows: features by name.
        numbers: numbers of the rows by name; empty where no two have equal ids.
        weights: (N,) weights of the anchors' positives; None where each weighs 1.
    """

    rows: Rows
    numbers: Rows
    weights: torch.Tensor | None

    def sorted(self) -> Batch:
        """The same with rows of equal numbers side by side, so that they stand in few tiles."""
        return Batch(*sort_rows(*self)) if self.numbers else self


class BlockMeans:
    """The means over the pairs of blocks.

    Args:
        given: features of this process, checked.
        text: text of the specification in the registry.
        numbers: numbers of the rows of all ranks; None without ids.
        ranks: ranks that share the batch, or None for this process alone.
        each_pair: whether each positive of an anchor has the weight 1, however many there are.
    """

    def __init__(
        self,
        given: Prepared,
        text: str,
        numbers: Numbers | None,
        ranks: Ranks | None,
        each_pair: bool = False,
    ) -> None:
        self.text, self.ranks, self.bias = text, ranks, given.bias
        rows, weights = given.rows, None
        self.share, self.each_pair = None, each_pair
        if numbers is not None:
            self.share = share_of_negatives(given.pairs, numbers, rows["x"].dtype)
        if numbers is not None and given.pairs.positive_blocks:
            weights = anchor_weights(given.pairs, numbers, rows["x"].dtype)
            weights = torch.ones_like(weights) if each_pair else weights
        self.union = Batch({}, {} if numbers is None else numbers.by_name, weights)
        self.given = self.union._replace(rows=rows)
        n, k = largest_block(rows, numbers is not None)
        if ranks is not None:
            self.given = Batch(
                rows,
                {k: v if k == "bank" else ranks.own(v) for k, v in self.union.numbers.items()},
                None if weights is None else ranks.own(weights),
            )
            n, k = ranks.largest_block(rows, numbers is not None)
        self.form = choose_form(given.implementation, n, k, bool(given.fused))
        self.fused = given.fused if self.form == FUSED else ""
        self.own = self.given if self.form == "dense" else self.given.sorted()

    def score_of_views(self) -> torch.Tensor:
        """Mean over the anchors of the weighted scores of the pairs (x_i, y_i)."""
        scores = positive_scores(self.given.rows, KNOWN[self.text], self.bias)
        scores = scores if self.given.weights is None else self.given.weights * scores
        return scores.mean() if self.ranks is None else self.ranks.mean(scores)

    def score(self, blocks: Sequence[Block]) -> torch.Tensor:
        """Mean over the anchors of the weighted scores of their positives in the blocks."""
        return self._mean(blocks, True)

    def excess(self, blocks: Sequence[Block]) -> torch.Tensor:
        """Mean excess of the negative pairs of the blocks.

        With `each_pair` of all pairs of the blocks, those with equal ids counting as 0.
        """
        excess = self._mean(blocks, False)
        if self.share is None:
            return excess
        # Without a negative pair it is no contrast, and NaN.
        return excess + 0.0 / self.share if self.each_pair else excess / self.share

    def _mean(self, blocks: Sequence[Block], positives: bool) -> torch.Tensor:
        if self.ranks is None:
            return self._of(self.own, blocks, positives)
        if any(block.right == "bank" for block in blocks):  # every rank has all of its rows' pairs
            own = self._of(self.own, blocks, positives)
            return self.ranks.mean(own.expand(len(self.own.rows["x"])))
        names = sorted({name for block in blocks for name in (block.left, block.right)})
        rows = {name: self.own.rows[name] for name in names}
        if self.form == "dense":
            union = {name: self.ranks.gather(side) for name, side in rows.items()}
            return self._of(self.union._replace(rows=union), blocks, positives)
        numbers, weights = self.union.numbers.get("x"), self.own.weights if positives else None
        ids = numbers, weights
        return ring_mean(rows, self.text, blocks, self.ranks, self.fused, *ids, self.bias)

    def _of(self, batch: Batch, blocks: Sequence[Block], positives: bool) -> torch.Tensor:
        weights = batch.weights if positives else None

        def block_mean(block: Block) -> torch.Tensor:
            left, right = block.sides(batch.rows)
            numbers = sides_of(batch.numbers, block)
            if self.form != "dense":
                options = self.text, block.skips_diagonal, self.fused
                return tiled_block_mean(left, right, *options, numbers, weights, self.bias)
            dense = left, right, KNOWN[self.text], block.skips_diagonal
            if weights is None or numbers is None:
                return dense_block_mean(*dense, numbers, self.bias)
            return dense_positive_mean(*dense, numbers, weights, self.bias)

        return mean_over_blocks(blocks, block_mean)
