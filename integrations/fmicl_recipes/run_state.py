"""What a checkpoint says beside its arrays, in every framework: how far the run is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from fmicl_recipes.checks import is_history, is_number
from fmicl_recipes.run_folder import unreadable_checkpoint


class RunState(NamedTuple):
    """How far a run is.

    Args:
        history: a row of numbers an epoch.
        seconds: seconds of training.
        losses: losses of the steps of an epoch that is not over.
    """

    history: list[dict[str, float]]
    seconds: float
    losses: list[float]

    @classmethod
    def of(cls, facts: Mapping[str, Any], path: str | Path) -> Self:
        """The state that a checkpoint says.

        Args:
            facts: "history", "seconds" and "losses", which old checkpoints lack at an epoch's end.
            path: path of the checkpoint, for the message.

        Raises:
            ValueError: it says something else.
        """
        found = {"losses": [], **facts}
        history, seconds, losses = (found.get(name) for name in cls._fields)
        if not isinstance(history, list) or not is_history(history):
            raise unreadable_checkpoint(path)
        if not isinstance(seconds, (int, float)) or not is_number(seconds):
            raise unreadable_checkpoint(path)
        if not isinstance(losses, list) or not all(map(is_number, losses)):
            raise unreadable_checkpoint(path)
        return cls([dict(row) for row in history], seconds, list(losses))
