"""TensorBoard without TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType


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
        folder: folder of the events.
    """

    def __init__(self, folder: Path) -> None:
        without_tensorflow()
        from tensorboard.summary import Writer

        self.writer = Writer(str(folder))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
