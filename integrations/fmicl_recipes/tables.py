"""Tables of images and labels: parquet files and hub data sets, by Hugging Face `datasets`."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.folders import IMAGE_SUFFIXES
from fmicl_recipes.sources import not_found
from fmicl_recipes.splits import Labels, Split

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")
#: In the place of the name of a column of labels: take none.
NO_COLUMN = "none"


def open_table(
    kind: str,
    source: str,
    image_column: str | None,
    label_column: str | None,
    *,
    offline: str | None = None,
    **files: Any,
) -> dict[str, Split]:
    """The splits of a table.

    Args:
        kind: of the files, or the name of a hub data set.
        source: what the user gave.
        image_column: name, or None for the first column that holds images.
        label_column: name, "none" for no labels, or None for one of `LABEL_COLUMNS`.
        offline: why the hub cannot be asked, so that only a copy from an earlier time will do.
        files: of the table, for `datasets.load_dataset`.

    Raises:
        ValueError: it cannot be read, or has no such columns.
    """
    splits = {}
    for key, table in _load(kind, source, offline, files).items():
        table = _undecoded(table)
        column = _image_column(table, image_column, source)
        labels, class_names = _labels(table, str(key), label_column, source)
        paths = files.get("data_files", {}).get(str(key), [])
        pictures = Pictures(table.select_columns([column]), list(map(Path, paths)))
        splits[str(key)] = Split(pictures, pictures.names(str(key), source), labels, class_names)
    return splits


class Pictures(Collection[Any]):
    """A column of images, not decoded: the bytes of a file, or a path, each.

    Args:
        table: of this column alone.
        files: of the table, from whose folders paths are found.
    """

    def __init__(self, table: Any, files: Sequence[Path]) -> None:
        self.table, (self.column,) = table, table.column_names
        self.folders = list(dict.fromkeys(file.parent for file in files))

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, value: object) -> bool:
        return any(value == picture for picture in self)

    def __iter__(self) -> Iterator[Any]:
        for value in self.table[self.column]:
            content = _content(value)
            yield self._found(content) if isinstance(content, str) else content

    def _found(self, path: str) -> str:
        places = [folder / path for folder in self.folders]
        return str(next((place for place in places if place.is_file()), path))

    def names(self, key: str, source: str) -> list[str]:
        """Paths from the source where images are files of their own, else rows by number."""
        if not isinstance(_content(_first(self.table, self.column)), str):
            return [f"{key} row {index}" for index in range(len(self))]
        top = Path(source).expanduser().resolve()
        top = top if top.is_dir() else top.parent
        paths = [Path(picture or "").resolve() for picture in self]
        return [(p.relative_to(top) if p.is_relative_to(top) else p).as_posix() for p in paths]


def _load(kind: str, source: str, offline: str | None, files: dict[str, Any]) -> Any:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline is not None  # or it would try for long
    try:
        if "data_files" not in files:
            return datasets.load_dataset(kind, **files)
        return {  # each on its own, as together all would have the features of the first
            key: datasets.load_dataset(kind, data_files={key: paths})[key]
            for key, paths in files["data_files"].items()
        }
    except Exception as error:  # the library raises many kinds, and all mean the same to the user
        said = f"{type(error).__name__}: {error}".rstrip(". ")
        if files:
            raise invalid("data", "files that Hugging Face datasets can read", source,
                          why=f"It said: {said}.") from error  # fmt: skip
        raise not_found(source, offline or f"The hub's could not be loaded: {said}.") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _undecoded(table: Any) -> Any:
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _first(table: Any, column: str) -> Any:
    """The first value of a column that is not missing."""
    return next((value for value in table[column] if value is not None), None)


def _content(value: Any) -> Any:
    """The bytes or the path that a value of a column of images is, or has as a part."""
    if isinstance(value, dict):
        return value.get("bytes") or value.get("path")
    return value


def _image_column(table: Any, named: str | None, source: str) -> str:
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


def _rank(table: Any, column: str) -> int | None:
    """How surely a column is one of images, from 0; None if it is not."""
    import datasets

    feature = table.features[column]
    keys = set(feature) if isinstance(feature, dict) else set()
    if isinstance(feature, datasets.Image) or {"bytes", "path"} <= keys:
        return 0
    kind = _kind(table, column)
    if kind in ("binary", "large_binary"):
        return 1 if _is_picture(_first(table, column)) else None
    if kind in ("string", "large_string"):
        path = _first(table, column)
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


def _labels(
    table: Any, key: str, named: str | None, source: str
) -> tuple[Labels | list[str] | None, tuple[str, ...] | None]:
    """The labels of a split, with the names of their classes; None where there are none."""
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


def _missing(value: Any, class_names: Sequence[str] | None) -> bool:
    """Whether a label says that there is none; of classes with names, the hub marks it by -1."""
    nothing = isinstance(value, float) and math.isnan(value)
    return value is None or value == "" or nothing or (class_names is not None and value == -1)


def _no_classes(column: str, kind: str, source: str, named: str | None) -> Exception:
    expected = "whole numbers or names of classes as labels"
    why = f"{column!r} holds {kind}."
    if named is not None:
        return invalid("label_column", f"a column of {expected}", named, why=why)
    return invalid(
        "data", expected, source,
        why=f"{why} With label_column = {NO_COLUMN!r} there are no labels at all.",
    )  # fmt: skip
