"""Which source a name stands for, and its splits: digits, files, folders, the hub.

Nothing is decoded here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.data.columns import NO_COLUMN
from fmicl_recipes.data.folders import (
    IMAGE_SUFFIXES,
    files_below,
    image_splits,
    in_order,
    suffix,
)
from fmicl_recipes.data.hub import ALIASES, check_reachable
from fmicl_recipes.data.shards import FORMATS, SAVED, SAVED_FILE
from fmicl_recipes.data.splits import Split, split_of
from fmicl_recipes.data.tables import open_table

DIGITS = "digits"
#: What Hugging Face calls the file that says more of the images of a folder.
METADATA = ("metadata.csv", "metadata.jsonl")


def check_source(
    source: str, image_column: str | None = None, label_column: str | None = None
) -> str | None:
    """Check what can be checked of a source in a second: without decoding, or importing much.

    Args:
        source: what `open_splits` takes.
        image_column: name of the column of images, which only some sources have.
        label_column: name of the column of labels, which only some sources have.

    Returns:
        Why the hub cannot be asked for the source, if it is one of the hub and a copy from an
        earlier time may be here; else None.

    Raises:
        ValueError: there is no such file, folder or hub data set, or it holds no images; or a
            column is named of a source that has none.
    """
    path = Path(source).expanduser()
    columns = {"image_column": image_column, "label_column": label_column}
    named = {argument: name for argument, name in columns.items() if name is not None}
    if source == DIGITS:
        _check_no_columns(source, named)
    elif path.is_file():
        if suffix(path.name) not in FORMATS:
            raise invalid("data", f"a file that ends in {', '.join(FORMATS)}, or a folder", source)
        _check_columns(path.parent, [path.name], source, named)
    elif path.is_dir():
        wanted = (*IMAGE_SUFFIXES, *FORMATS)
        if not any(suffix(file) in wanted for file in files_below(path)):
            raise invalid(
                "data", f"a folder that holds images or files of them ({', '.join(wanted)})", source
            )
        _check_columns(path, files_below(path), source, named)
    else:
        _check_hub_name(source, path)
        return check_reachable(source)
    return None


def open_splits(
    source: str, image_column: str | None = None, label_column: str | None = None
) -> dict[str, Split]:
    """The splits of an image data set by name.

    Args:
        source: "digits", a hub name or alias, a folder of images or of shards, or one shard, which
            is a file of one of the `FORMATS`.
        image_column: name of the column of images; None takes the first that holds images.
        label_column: name of the column of labels, or "none" for images without; None takes one
            with a usual name.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    offline = check_source(source, image_column, label_column)
    if source == DIGITS:
        return {"train": _digits()}
    path = Path(source).expanduser()
    columns = (image_column, label_column)
    if path.is_file():
        kind = FORMATS[suffix(path.name)]
        return open_table(kind, source, *columns, data_files={"train": [str(path)]})
    if not path.is_dir():
        return open_table(ALIASES.get(source, source), source, *columns, offline=offline)
    files = in_order(list(files_below(path)))
    shards = [file for file in files if file.lower().endswith((SAVED_FILE, *FORMATS))]
    for ending, kind in ((SAVED_FILE, SAVED), *FORMATS.items()):
        by_split: dict[str, list[str]] = {}
        for file in shards:
            if ending in (os.path.basename(file), suffix(file)):
                shard = os.path.dirname(file) if kind == SAVED else file
                by_split.setdefault(split_of(Path(file)) or "train", []).append(str(path / shard))
        if by_split:
            return open_table(kind, source, *columns, data_files=by_split)
    if any(os.path.basename(file) in METADATA for file in files):
        return open_table("imagefolder", source, *columns, data_dir=str(path))
    return image_splits(path, [file for file in files if suffix(file) in IMAGE_SUFFIXES])


def _digits() -> Split:
    """The handwritten digits of scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    names = [f"train row {index}" for index in range(len(images))]
    return Split(images, names, bunch.target.astype(np.int64), tuple("0123456789"))


def _check_no_columns(source: str, named: Mapping[str, str]) -> None:
    for argument, name in named.items():
        why = "Only shards, such as parquet files, and hub data sets have columns."
        raise invalid(argument, f"to be left out beside data = {source!r}", name, why=why)


def _check_columns(
    folder: Path, files: Iterable[str], source: str, named: Mapping[str, str]
) -> None:
    """Check that columns are there, by the schema of the first parquet file, if there is any.

    Args:
        folder: folder of the files.
        files: paths of the source's files from there.
        source: what the user gave.
        named: names of columns, by the argument that gave them.
    """
    if not named:
        return
    files = list(files)
    if any(suffix(file) in FORMATS and suffix(file) != ".parquet" for file in files):
        return  # what the columns of those are is seen when they are read
    table = next((file for file in files if suffix(file) == ".parquet"), None)
    if table is None:
        if not any(os.path.basename(file) in METADATA for file in files):
            _check_no_columns(source, named)
        return
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        columns = read_schema(folder / table).names
    except (ArrowException, OSError):  # the rows are read later, and then more is said
        return
    for argument, name in named.items():
        if (argument, name) != ("label_column", NO_COLUMN):
            check_choice(argument, name, columns)


def _check_hub_name(source: str, path: Path) -> None:
    """Refuse a name that cannot be the hub's, or is rather a path that does not exist."""
    names = ", ".join([DIGITS, *ALIASES])
    expected = f"a path that exists, a hub name OWNER/NAME, or one of {names}"
    hub_like = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)
    like_a_file = suffix(path.name) in (*IMAGE_SUFFIXES, *FORMATS)
    if source in ALIASES or (hub_like and not path.parent.exists() and not like_a_file):
        return
    why = None
    if path.parent.is_dir() and path.parent != Path():
        why = f"The folder {str(path.parent)!r} is there, but no {path.name!r} in it."
    beside = [*(ALIASES if path.parent == Path() else ()), DIGITS]
    if path.parent.is_dir():
        beside += [str(path.with_name(name)) for name in os.listdir(path.parent)]
    if close := difflib.get_close_matches(str(path), beside, n=1, cutoff=0.8):
        why = f"{why or ''} Did you mean {close[0]!r}?".strip()
    raise invalid("data", expected, source, why=why)
