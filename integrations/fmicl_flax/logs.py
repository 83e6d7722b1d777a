"""What accompanies a training run: one progress bar, and TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tqdm.auto import tqdm


class Progress:
    """One bar for the whole run.

    Args:
        title: of the run.
        epochs: of the run.
        total: steps of the run.
        done: of them, when the run goes on.
        shown: whether there is a bar at all.
    """

    def __init__(self, title: str, epochs: int, total: int, done: int, shown: bool) -> None:
        self.epochs = epochs
        self.bar = tqdm(total=total, initial=done, desc=title, unit="step", disable=not shown)
        self.bar.set_postfix_str("compiling")  # until the first step is through

    def advance(self, epoch: int, loss: float) -> None:
        """One step of an epoch (from 1)."""
        self.bar.set_postfix(epoch=f"{epoch}/{self.epochs}", loss=f"{loss:.4f}", refresh=False)
        self.bar.update()


class Board:
    """TensorBoard's event file in a folder.

    Args:
        folder: of the events.
    """

    def __init__(self, folder: Path) -> None:
        # TensorBoard's own switch: without it, it imports TensorFlow where that is installed.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Scalars by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
