"""Tables of images and labels: parquet files and hub data sets, by Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.data.columns import first_value, image_column, labels_of, picture_of
from fmicl_recipes.data.hub import not_found
from fmicl_recipes.data.shards import SAVED, damaged
from fmicl_recipes.data.splits import Split
from fmicl_recipes.data.texts import RowNames, Texts


def open_table(
    kind: str,
    source: str,
    column_of_images: str | None,
    column_of_labels: str | None,
    *,
    offline: str | None = None,
    **files: Any,
) -> dict[str, Split]:
    """The splits of a table.

    Args:
        kind: format of the files, as `datasets` names it, `SAVED`, or the name of a hub data set.
        source: what the user gave.
        column_of_images: name, or None for the first column that holds images.
        column_of_labels: name, "none" for no labels, or None for a column with a usual name.
        offline: why the hub cannot be asked, so that only a copy from an earlier time will do.
        files: files of the table, as `datasets.load_dataset` takes them.

    Raises:
        ValueError: it cannot be read, or has no such columns.
    """
    splits = {}
    for key, table in _load(kind, source, offline, files).items():
        table = _undecoded(table)
        column = image_column(table, column_of_images, source)
        labels, class_names = labels_of(table, str(key), column_of_labels, source)
        paths = files.get("data_files", {}).get(str(key), [])
        pictures = Pictures(table.select_columns([column]), list(map(Path, paths)))
        splits[str(key)] = Split(pictures, pictures.names(str(key), source), labels, class_names)
    return splits


class Pictures(Sequence[Any]):
    """A column of images that are not decoded: each is the bytes of a file, or a path.

    Args:
        table: table of this column alone.
        files: files of the table; paths in the column may begin at their folders.
    """

    def __init__(self, table: Any, files: Sequence[Path]) -> None:
        self.table, (self.column,) = table, table.column_names
        self.folders = list(dict.fromkeys(file.parent for file in files))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        return self._found(picture_of(self.table[int(index)][self.column]))

    def __iter__(self) -> Iterator[Any]:
        for value in self.table[self.column]:
            yield self._found(picture_of(value))

    def _found(self, picture: Any) -> Any:
        if not isinstance(picture, str):
            return picture
        places = [folder / picture for folder in self.folders]
        return str(next((place for place in places if place.is_file()), picture))

    @property
    def fingerprint(self) -> str:
        """A text that is another for another table."""
        return str(self.table._fingerprint)

    def lengths(self) -> NDArray[np.int64]:
        """Bytes of every picture, without reading them; -1 for paths."""
        from pyarrow import compute, types

        column = self.table.data.column(self.column)
        if types.is_struct(column.type):
            column = compute.struct_field(column, "bytes")
        if types.is_string(column.type) or types.is_large_string(column.type):
            return np.full(len(column), -1, np.int64)
        return np.asarray(compute.fill_null(compute.binary_length(column), -1), np.int64)

    def names(self, key: str, source: str) -> Sequence[str]:
        """Paths from the source where images are files of their own, else rows by number."""
        if not isinstance(picture_of(first_value(self.table, self.column)), str):
            return RowNames(key, len(self))
        top = Path(source).expanduser().resolve()
        top = top if top.is_dir() else top.parent
        paths = (Path(picture or "").resolve() for picture in self)
        return Texts((p.relative_to(top) if p.is_relative_to(top) else p).as_posix() for p in paths)


def _load(kind: str, source: str, offline: str | None, files: dict[str, Any]) -> Any:
    """The splits as `datasets` reads them."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline is not None  # or it would try for long
    try:
        if "data_files" not in files:
            return datasets.load_dataset(kind, **files)
        if kind == SAVED:
            return {
                key: datasets.concatenate_datasets([*map(datasets.load_from_disk, folders)])
                for key, folders in files["data_files"].items()
            }
        return {  # each on its own, as together all would have the features of the first
            key: datasets.load_dataset(kind, data_files={key: paths})[key]
            for key, paths in files["data_files"].items()
        }
    except Exception as error:  # the library raises many kinds, and all mean the same to the user
        said = f"{type(error).__name__}: {error}".rstrip(". ")
        if files:
            paths = chain.from_iterable(files.get("data_files", {}).values())
            why = damaged(paths) or f"It said: {said}"
            raise invalid("data", "files that Hugging Face datasets can read", source,
                          why=f"{why}.") from error  # fmt: skip
        raise not_found(source, offline or f"The hub's could not be loaded: {said}.") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _undecoded(table: Any) -> Any:
    """The table, with images as bytes and paths instead of pictures."""
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table
