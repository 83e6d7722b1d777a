"""What losses say where several ranks share a batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from fmicl_core.checks import InvalidArgument, callers_level, invalid

#: Losses that take no features from other ranks.
KNOW_NO_RANKS = ("alignment_uniformity_loss", "spectral_contrastive_loss")
#: Losses whose warning below was given, or is not wanted, in this process.
_told_of_ranks: set[str] = set()


def warn_of_ranks(loss: str, remedy: str = "") -> None:
    """Warn, once in a process, that a loss on several ranks sees its own rank's rows only.

    Args:
        loss: name of the loss.
        remedy: what to write for the loss of the whole batch, and for that of one rank without this
            warning; "" where the loss takes no features from other ranks.
    """
    if loss in _told_of_ranks:
        return
    _told_of_ranks.add(loss)
    remedy = remedy or "Gather the features first, or take `fmicl_loss` or `siglip_loss`."
    warnings.warn(
        f"`{loss}` is of the rows that it is given: the rows of other ranks, devices or replicas"
        " are no negatives, and the mean of the ranks' losses is not the loss of the whole batch."
        f" {remedy}",
        UserWarning,
        stacklevel=callers_level(),
    )


def features_are_gathered() -> None:
    """Give no such warning in this process: the caller gathers the features of all ranks first."""
    _told_of_ranks.update(KNOW_NO_RANKS)


def refused_by_rank(rank: int, message: str) -> InvalidArgument:
    """Build the error for what another rank refused, in that rank's words."""
    return InvalidArgument(f"Rank {rank} refused its part of the batch. There: {message}")


def ranks_differ(argument: str, values: Sequence[Any]) -> InvalidArgument:
    """Build the error for an argument that differs between ranks; `values` are in order of rank."""
    return invalid(argument, "the same on every rank", list(values), what=f"{argument} by rank")


def check_union(sizes: Sequence[int]) -> None:
    """Check that a batch shared by ranks, `sizes` rows each, has rows on each and a negative."""
    if min(sizes) < 1 or sum(sizes) < 2:
        raise invalid("x", "at least one row on every rank, and two in all", list(sizes),
                      what="rows by rank")  # fmt: skip
