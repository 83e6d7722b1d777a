"""What a run says of itself while it goes on, on standard error: notes and one progress bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm.auto import tqdm


def note(text: str, shown: bool = True) -> None:
    """Say in one line what is being done or left out; it does not break a progress bar."""
    if shown:
        tqdm.write(text, file=sys.stderr)


#: Share of the time above which the bar says that training waits for images.
MUCH_WAITING = 0.1
#: Steps between two looks at how long training waits for images.
LOOK = 20


class Progress:
    """One bar for the whole run, which says what it waits for.

    Args:
        title: title of the run.
        epochs: number of epochs of the run.
        total: number of steps of the run.
        done: number of steps that were done before, where the run goes on.
        shown: whether there is a bar at all.
        waits_for: what the bar says until the first step is through.
    """

    def __init__(
        self, title: str, epochs: int, total: int, done: int, *, shown: bool,
        waits_for: str = "compiling",
    ) -> None:  # fmt: skip
        self.epochs = epochs
        self.numbers: dict[str, str] = {}
        self.measured: dict[str, str] = {}
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

    def waited(self, share: float) -> None:
        """Show the share of the time in which training waited for images, if it is much.

        Args:
            share: share in [0, 1] of the time since the epoch began.
        """
        self.measured.pop("waits for data", None)
        if share > MUCH_WAITING:
            self.measured["waits for data"] = f"{share:.0%}"

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """Show contrastive accuracy and kNN of the history's row from now on, beside the loss."""
        shown = {"batch top-1": "contrastive_accuracy", "knn": "knn_accuracy"}
        self.measured |= {k: f"{row[name]:.0%}" for k, name in shown.items() if name in row}
        self.bar.set_postfix(self.numbers | self.measured)

    def close(self) -> None:
        """Close the bar, however the run ended."""
        self.bar.close()
