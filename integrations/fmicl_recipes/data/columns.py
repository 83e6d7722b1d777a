"""Columns of a table: which one holds images, which one labels, and what the labels are."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.data.folders import IMAGE_SUFFIXES
from fmicl_recipes.data.splits import Labels

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y", "cls")
#: What stands in the place of the name of a column of labels for images without labels.
NO_COLUMN = "none"


def image_column(table: Any, named: str | None, source: str) -> str:
    """Name of the column of images.

    Args:
        table: a split of `datasets`.
        named: the name that the user gave; None for the first column that holds images.
        source: what the user gave as the data set.

    Raises:
        ValueError: there is no such column, or it holds no images.
    """
    columns = table.column_names
    if named is not None:
        check_choice("image_column", named, columns)
        if len(table) and _rank(table, named) is None:
            raise invalid("image_column", "a column of images, of their bytes or of their paths",
                          named, why=f"It holds {_kind(table, named)}.")  # fmt: skip
        return named
    ranks = {name: rank for name in columns if (rank := _rank(table, name)) is not None}
    if not ranks:
        raise invalid("data", "a column of images", source, why=f"Columns: {columns}.")
    return min(ranks, key=lambda name: ranks[name])


def first_value(table: Any, column: str) -> Any:
    """The first value of a column that is not missing."""
    return next((value for value in table[column] if value is not None), None)


def picture_of(value: Any) -> Any:
    """The bytes or the path of a picture, which a value of a column is, or has as a part."""
    if isinstance(value, dict):
        return value.get("bytes") or value.get("path")
    return value


def labels_of(
    table: Any, key: str, named: str | None, source: str
) -> tuple[Labels | list[str] | None, tuple[str, ...] | None]:
    """The labels of a split, and the names of their classes; None where there are none.

    Args:
        table: a split of `datasets`.
        key: name of the split.
        named: the column that the user named, `NO_COLUMN`, or None for one of `LABEL_COLUMNS`.
        source: what the user gave as the data set.

    Raises:
        ValueError: there is no such column, or its values are no labels, or some are missing.
    """
    columns = table.column_names
    if named == NO_COLUMN and NO_COLUMN not in columns:
        return None, None
    if named is not None:
        check_choice("label_column", named, columns)
    column = named or next((name for name in LABEL_COLUMNS if name in columns), None)
    if column is None:
        return None, None
    kind, feature = _kind(table, column), table.features[column]
    if not kind.startswith(("int", "uint", "bool", "float", "string", "large_string", "null")):
        raise _no_classes(column, kind, source, named)
    class_names = getattr(feature, "names", None)
    values: Any = [None if _missing(value, class_names) else value for value in table[column][:]]
    missing = sum(value is None for value in values)
    if missing == len(values) or all(value == -1 for value in values):
        return None, None
    if missing:
        raise invalid(
            "data", "a label for every image, or for none of a split", source,
            why=f"{missing} of {key!r} have none. With label_column = {NO_COLUMN!r} there are no"
            " labels at all.",
        )  # fmt: skip
    if "string" in kind:
        return values, None
    if any(value % 1 for value in values):
        raise _no_classes(column, "fractions", source, named)
    if kind == "bool":
        class_names = ("False", "True")
    return np.asarray(values, dtype=np.int64), None if class_names is None else tuple(class_names)


def _rank(table: Any, column: str) -> int | None:
    """How surely a column holds images, from 0, the surest; None if it does not."""
    import datasets

    feature = table.features[column]
    keys = set(feature) if isinstance(feature, dict) else set()
    if isinstance(feature, datasets.Image) or {"bytes", "path"} <= keys:
        return 0
    kind = _kind(table, column)
    if kind in ("binary", "large_binary"):
        return 1 if _is_picture(first_value(table, column)) else None
    if kind in ("string", "large_string"):
        path = first_value(table, column)
        return 2 if path and path.lower().endswith(IMAGE_SUFFIXES) else None
    return None


def _kind(table: Any, column: str) -> str:
    return str(getattr(table.features[column], "dtype", "lists or parts"))


def _is_picture(content: bytes | None) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content or b"")):
            return True
    except Exception:  # of Pillow's many kinds
        return False


def _missing(value: Any, class_names: Sequence[str] | None) -> bool:
    """Whether a label says that there is none; of classes with names, the hub marks it by -1."""
    nothing = isinstance(value, float) and math.isnan(value)
    return value is None or value == "" or nothing or (class_names is not None and value == -1)


def _no_classes(column: str, kind: str, source: str, named: str | None) -> InvalidArgument:
    expected = "whole numbers or names of classes as labels"
    why = f"{column!r} holds {kind}."
    if named is not None:
        return invalid("label_column", f"a column of {expected}", named, why=why)
    return invalid(
        "data", expected, source,
        why=f"{why} With label_column = {NO_COLUMN!r} there are no labels at all.",
    )  # fmt: skip
