"""Splits of a data set before they are decoded: their names, and the numbers of their classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
#: Images (N, H, W, C), or one image (H, W, C).
Images = NDArray[np.uint8]

#: What stands in the place of a label where there is none.
NO_LABEL = -1

#: Splits to evaluate on; the first that has labels is taken. Those of a "test" are often kept back.
TEST_SPLITS = ("validation", "valid", "val", "test")
#: The splits that words in the names of files and folders stand for.
SPLIT_WORDS = {
    **{name: name for name in ("train", *TEST_SPLITS)},
    "training": "train", "dev": "validation", "testing": "test", "eval": "test",
    "evaluation": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """The images of a split, not decoded, and what is known of each.

    Args:
        pictures: the images; each is a path, the bytes of a file, or a uint8 array (H, W, C).
        names: the images' names, in the same order.
        labels: the images' labels, in the same order, as numbers or as names of classes; None
            where there are none.
        class_names: names of the numbers 0, 1, ...; None if they have none.
    """

    pictures: Sequence[Any]
    names: Sequence[str]
    labels: Labels | Sequence[str] | None = None
    class_names: tuple[str, ...] | None = None


def numbered(
    splits: Mapping[str, Split],
) -> tuple[dict[str, Labels | None], tuple[str, ...] | None]:
    """The labels of every split as numbers, and the names of the classes 0, 1, ..., if any.

    Classes that are texts are numbered in alphabetical order, the same in every split. Where the
    splits do not agree what a number stands for, its name is taken as such a text.
    """
    namings = {s.class_names for s in splits.values() if s.labels is not None}
    if len(namings) < 2 and not any(isinstance(s.labels, Sequence) for s in splits.values()):
        numbers: Any = {key: s.labels for key, s in splits.items()}
        return numbers, next(iter(namings), None)
    texts = {key: _texts(s) for key, s in splits.items()}
    classes = tuple(sorted({text for of_split in texts.values() for text in of_split or ()}))
    number = {text: index for index, text in enumerate(classes)}
    return {
        key: None if of_split is None else np.array([number[t] for t in of_split], np.int64)
        for key, of_split in texts.items()
    }, classes


def _texts(split: Split) -> Sequence[str] | None:
    """The class of every image of a split as a text; a number without a name stands for itself."""
    if split.labels is None or isinstance(split.labels, Sequence):
        return split.labels
    return [split.class_names[i] if split.class_names else str(i) for i in split.labels]


def split_word(name: str) -> str | None:
    """The split that the first word of a name stands for."""
    word = re.match("[a-z]*", name.lower()).group()  # type: ignore[union-attr]
    return SPLIT_WORDS.get(word)


def split_of(file: Path) -> str | None:
    """The split that a file belongs to, by its name, or else by the name of a folder above it."""
    return next((key for part in reversed(file.parts) if (key := split_word(part))), None)
