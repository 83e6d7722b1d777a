"""Texts that take little memory, and that are quick to send to another process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Texts(Sequence[str]):
    """Texts, such as the paths of millions of files, in one piece of memory.

    Args:
        texts: the texts.
        prefix: what every text begins with beside.
    """

    def __init__(self, texts: Iterable[str], prefix: str = "") -> None:
        encoded = [os.fsencode(text) for text in texts]
        self.joined, self.prefix = b"".join(encoded), prefix
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def prefixed(self, prefix: str) -> Texts:
        """The same texts, in the same memory, each behind a prefix."""
        twin = Texts.__new__(Texts)
        twin.joined, twin.ends, twin.prefix = self.joined, self.ends, prefix
        return twin

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.prefix + os.fsdecode(self.joined[self.ends[index] : self.ends[index + 1]])


class RowNames(Sequence[str]):
    """Names of the rows of a split, by their numbers.

    Args:
        key: name of the split.
        rows: number of rows.
    """

    def __init__(self, key: str, rows: int) -> None:
        self.key, self.rows = key, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.rows:
            raise IndexError(index)
        return f"{self.key} row {index}"
