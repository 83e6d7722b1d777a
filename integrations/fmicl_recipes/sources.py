"""Where images come from: the hub, parquet files, image folders. Nothing is decoded here."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.folders import IMAGE_SUFFIXES, files_below, image_splits
from fmicl_recipes.splits import Split, split_of

DIGITS = "digits"
#: Short names of hub data sets.
ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist"}
#: What Hugging Face calls the file that says more of the images of a folder.
METADATA = ("metadata.csv", "metadata.jsonl")
#: Seconds to wait for the hub to answer whether it has a data set.
HUB_TIMEOUT = 5.0
#: Data sets that the hub has said to have, so that it is asked once in a process.
_reached: set[str] = set()


def check_source(
    source: str, image_column: str | None = None, label_column: str | None = None
) -> None:
    """Check what can be checked of a source in a second: without decoding, or importing much.

    Args:
        source: see `open_splits`.
        image_column: name of a column, which only some sources have.
        label_column: name of a column, too.

    Raises:
        ValueError: there is no such file, folder or hub data set, or it holds no images; or a
            column is named of a source that has none.
    """
    _checked(source, image_column, label_column)


def _checked(source: str, image_column: str | None, label_column: str | None) -> str | None:
    """Check a source; why the hub cannot be asked for it, if a copy of it may be there."""
    path = Path(source).expanduser()
    columns = {"image_column": image_column, "label_column": label_column}
    named = {argument: name for argument, name in columns.items() if name is not None}
    if source == DIGITS:
        _check_no_columns(source, named)
    elif path.is_file():
        if path.suffix.lower() != ".parquet":
            raise invalid("data", "a parquet file or a folder", source)
        _check_columns([path], source, named)
    elif path.is_dir():
        wanted = (*IMAGE_SUFFIXES, ".parquet")
        if not any(file.suffix.lower() in wanted for file in files_below(path)):
            raise invalid(
                "data", f"a folder that holds images or parquet files ({', '.join(wanted)})", source
            )
        _check_columns(files_below(path), source, named)
    else:
        _check_hub_name(source, path)
        failure = _hub_failure(ALIASES.get(source, source))
        if failure and not _perhaps_cached(ALIASES.get(source, source)):
            raise not_found(source, failure)
        return failure
    return None


def open_splits(
    source: str, image_column: str | None = None, label_column: str | None = None
) -> dict[str, Split]:
    """The splits of an image data set by name.

    Args:
        source: "digits", a hub name or alias, a folder of parquet files or of images, or one
            parquet file.
        image_column: name of the column of images; None takes the first that holds images.
        label_column: name of the column of labels, or "none" for images without; None takes one
            with a usual name.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    offline = _checked(source, image_column, label_column)
    if source == DIGITS:
        return {"train": _digits()}
    from fmicl_recipes.tables import open_table

    path = Path(source).expanduser()
    columns = (image_column, label_column)
    if path.is_file():
        return open_table("parquet", source, *columns, data_files={"train": [str(path)]})
    if not path.is_dir():
        return open_table(ALIASES.get(source, source), source, *columns, offline=offline)
    files = sorted(files_below(path))
    by_split: dict[str, list[str]] = {}
    for file in files:
        if file.suffix.lower() == ".parquet":
            key = split_of(file.relative_to(path)) or "train"
            by_split.setdefault(key, []).append(str(file))
    if by_split:
        return open_table("parquet", source, *columns, data_files=by_split)
    if any(file.name in METADATA for file in files):
        return open_table("imagefolder", source, *columns, data_dir=str(path))
    return image_splits(path, [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES])


def _digits() -> Split:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    names = [f"train row {index}" for index in range(len(images))]
    return Split(images, names, bunch.target.astype(np.int64), tuple("0123456789"))


def _check_no_columns(source: str, named: Mapping[str, str]) -> None:
    for argument, name in named.items():
        why = "Only parquet files and hub data sets have columns."
        raise invalid(argument, f"to be left out beside data = {source!r}", name, why=why)


def _check_columns(files: Iterable[Path], source: str, named: Mapping[str, str]) -> None:
    """Check that columns named are there, by the schema of the first parquet file, if any."""
    if not named:
        return
    files = list(files)
    table = next((file for file in files if file.suffix.lower() == ".parquet"), None)
    if table is None:
        if not any(file.name in METADATA for file in files):
            _check_no_columns(source, named)
        return
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    from fmicl_recipes.tables import NO_COLUMN

    try:
        columns = read_schema(table).names
    except (ArrowException, OSError):  # of which reading the rows says more
        return
    for argument, name in named.items():
        if (argument, name) != ("label_column", NO_COLUMN):
            check_choice(argument, name, columns)


def _check_hub_name(source: str, path: Path) -> None:
    """Refuse a name that can be none of the hub, or is rather a path that does not exist."""
    names = ", ".join([DIGITS, *ALIASES])
    expected = f"a path that exists, a hub name OWNER/NAME, or one of {names}"
    hub_like = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)
    like_a_file = path.suffix.lower() in (*IMAGE_SUFFIXES, ".parquet")
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


def _hub_failure(name: str) -> str | None:
    """Why the hub cannot give a data set, after one short try; None if it can."""
    from huggingface_hub import HfApi

    if name in _reached:
        return None
    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # of the hub's, its client's and the system's many kinds
        if type(error).__name__ == "RepositoryNotFoundError":
            return "The hub has no data set of that name, or none that is open to all."
        lines = str(error).splitlines() or [""]
        return f"The hub could not be reached: {type(error).__name__}: {lines[0]}."
    _reached.add(name)
    return None


def _perhaps_cached(name: str) -> bool:
    """Whether `datasets` may have a copy of a hub data set from an earlier time."""
    from huggingface_hub import constants

    folder = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    return any(Path(folder).expanduser().glob(f"{name.partition('/')[0]}___*"))


def not_found(source: str, why: str) -> InvalidArgument:
    """Build the error for a name that is no path, and of which the hub gives nothing."""
    return invalid(
        "data", "a path that exists, or a data set of the hub that can be reached", source,
        why=f"No file or folder of that name is here. {why} Without access to the hub give a local"
        " path: a folder of images or of parquet files.",
    )  # fmt: skip
