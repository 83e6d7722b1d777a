"""The warning of a loss that sees its own rows only where several ranks share a batch."""

from __future__ import annotations

import warnings

from fmicl_core.checks import callers_level

#: Losses that take no features from other ranks.
KNOW_NO_RANKS = ("info_nce_loss", "alignment_uniformity_loss", "spectral_contrastive_loss")
#: Losses whose warning below was given, or is not wanted, in this process.
_told_of_ranks: set[str] = set()


def warn_of_ranks(loss: str) -> None:
    """Warn, once in a process, that a loss on several ranks sees its own rank's rows only."""
    if loss in _told_of_ranks:
        return
    _told_of_ranks.add(loss)
    warnings.warn(
        f"`{loss}` is of the rows that it is given: the rows of other ranks or replicas are no"
        " negatives, and the mean of the ranks' losses is not the loss of the whole batch. Gather"
        " the features first, or take `fmicl_loss`, which does it.",
        UserWarning,
        stacklevel=callers_level(),
    )


def features_are_gathered() -> None:
    """Give no such warning in this process: the caller gathers the features of all ranks first."""
    _told_of_ranks.update(KNOW_NO_RANKS)
