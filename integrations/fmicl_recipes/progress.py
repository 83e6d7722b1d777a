"""What a run says of itself while it goes on, on standard error beside the progress bars."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm


def note(text: str, shown: bool = True) -> None:
    """Say in one line what is being done or left out; it does not break a progress bar."""
    if shown:
        tqdm.write(text, file=sys.stderr)
