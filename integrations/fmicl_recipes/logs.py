"""What accompanies a training run in every framework: one progress bar, and TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tqdm.auto import tqdm


class Progress:
    """One bar for the whole run, which says what it waits for.

    Args:
        title: of the run.
        epochs: of the run.
        total: steps of the run.
        done: of them, when the run goes on.
        shown: whether there is a bar at all.
        waits_for: until the first step is through.
    """

    def __init__(
        self, title: str, epochs: int, total: int, done: int, *, shown: bool,
        waits_for: str = "compiling",
    ) -> None:  # fmt: skip
        self.epochs, self.numbers, self.measured = epochs, {}, {}
        self.bar = tqdm(total=total, initial=done, desc=title, unit="step", disable=not shown)
        self.say(waits_for)

    def say(self, what: str) -> None:
        """Show what the run waits for, in the place of its numbers."""
        self.bar.set_postfix_str(what)

    def advance(self, epoch: int, loss: float) -> None:
        """One step of an epoch (from 1)."""
        self.numbers = {"epoch": f"{epoch}/{self.epochs}", "loss": f"{loss:.4f}"}
        self.bar.set_postfix(self.numbers | self.measured, refresh=False)
        self.bar.update()

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """Show contrastive accuracy and kNN of the history's row from now on, beside the loss."""
        shown = {"batch top-1": "contrastive_accuracy", "knn": "knn_accuracy"}
        self.measured |= {k: f"{row[name]:.0%}" for k, name in shown.items() if name in row}
        self.bar.set_postfix(self.numbers | self.measured)

    def close(self) -> None:
        """Close the bar, however the run ended."""
        self.bar.close()


def without_tensorflow() -> None:
    """Keep TensorBoard from importing TensorFlow where that is installed, which takes seconds.

    By TensorBoard's own switch; to be called before TensorBoard is imported. It then writes to
    folders of this machine alone.
    """
    if "tensorboard" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))


class Board:
    """TensorBoard's event file in a folder.

    Args:
        folder: of the events.
    """

    def __init__(self, folder: Path) -> None:
        without_tensorflow()
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Scalars by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
