"""Where images come from: the hub, parquet files, image folders. Nothing is decoded here."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import InvalidArgument, callers_level, invalid

Labels = NDArray[np.int64]

DIGITS = "digits"
#: Short names of hub data sets.
ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist"}
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"
)  # fmt: skip
#: Splits to evaluate on, the first that has labels; those of a "test" are often kept back.
TEST_SPLITS = ("validation", "valid", "val", "test")
#: The splits that words in the names of files and folders stand for.
SPLIT_WORDS = {
    **{name: name for name in ("train", *TEST_SPLITS)},
    "training": "train", "dev": "validation", "testing": "test", "eval": "test",
    "evaluation": "test",
}  # fmt: skip
#: What Hugging Face calls the file that says more of the images of a folder.
METADATA = ("metadata.csv", "metadata.jsonl")
#: Seconds to wait for the hub to answer whether it has a data set.
HUB_TIMEOUT = 5.0


@dataclass(frozen=True)
class Split:
    """The images of a split, not decoded, and what is known of each.

    Args:
        pictures: a path, the bytes of a file, or a uint8 array (H, W, C) each.
        names: one each, in the same order.
        labels: one each, a number or the name of its class; None where there are none.
        class_names: of the numbers 0, 1, ..., if they have any.
    """

    pictures: Collection[Any]
    names: Sequence[str]
    labels: Labels | Sequence[str] | None = None
    class_names: tuple[str, ...] | None = None


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
    path = Path(source).expanduser()
    if source == DIGITS:
        _check_no_columns(source, image_column, label_column)
    elif path.is_file():
        if path.suffix.lower() != ".parquet":
            raise invalid("data", "a parquet file or a folder", source)
    elif path.is_dir():
        wanted = (*IMAGE_SUFFIXES, ".parquet")
        if not any(file.suffix.lower() in wanted for file in _files(path)):
            raise invalid(
                "data", f"a folder that holds images or parquet files ({', '.join(wanted)})", source
            )
    else:
        _check_hub_name(source, path)
        failure = _hub_failure(ALIASES.get(source, source))
        if failure and not _perhaps_cached(ALIASES.get(source, source)):
            raise not_found(source, failure)


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
    check_source(source, image_column, label_column)
    if source == DIGITS:
        return {"train": _digits()}
    from fmicl_recipes.tables import open_table

    path = Path(source).expanduser()
    columns = (image_column, label_column)
    if path.is_file():
        return open_table("parquet", source, *columns, data_files={"train": [str(path)]})
    if not path.is_dir():
        name = ALIASES.get(source, source)
        return open_table(name, source, *columns, offline=_hub_failure(name))
    files = sorted(_files(path))
    by_split: dict[str, list[str]] = {}
    for file in files:
        if file.suffix.lower() == ".parquet":
            key = _split_of(file.relative_to(path)) or "train"
            by_split.setdefault(key, []).append(str(file))
    if by_split:
        return open_table("parquet", source, *columns, data_files=by_split)
    if any(file.name in METADATA for file in files):
        return open_table("imagefolder", source, *columns, data_dir=str(path))
    _check_no_columns(source, image_column, label_column)
    return _image_splits(path, [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES])


def numbered(
    splits: Mapping[str, Split],
) -> tuple[dict[str, Labels | None], tuple[str, ...] | None]:
    """The labels of every split as numbers, and the names of the classes 0, 1, ..., if any.

    Classes with names only are numbered in the order of their names, the same in every split.
    """
    named = {key: s.labels for key, s in splits.items() if isinstance(s.labels, Sequence)}
    classes = sorted({name for labels in named.values() for name in labels})
    number = {name: index for index, name in enumerate(classes)}
    labels = {
        key: np.array([number[name] for name in named[key]], np.int64) if key in named else s.labels
        for key, s in splits.items()
    }
    known = [s.class_names for s in splits.values() if s.class_names is not None]
    return labels, tuple(classes) or (known[0] if known else None)  # type: ignore[return-value]


def _digits() -> Split:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    names = [f"train row {index}" for index in range(len(images))]
    return Split(images, names, bunch.target.astype(np.int64), tuple("0123456789"))


def _check_no_columns(source: str, image_column: str | None, label_column: str | None) -> None:
    for name, value in (("image_column", image_column), ("label_column", label_column)):
        if value is not None:
            why = "Only parquet files and hub data sets have columns."
            raise invalid(name, f"to be left out beside data = {source!r}", value, why=why)


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


@cache
def _hub_failure(name: str) -> str | None:
    """Why the hub cannot give a data set, after one short try; None if it can."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # of the hub's, its client's and the system's many kinds
        if type(error).__name__ == "RepositoryNotFoundError":
            return "The hub has no data set of that name, or none that is open to all."
        lines = str(error).splitlines() or [""]
        return f"The hub could not be reached: {type(error).__name__}: {lines[0]}."
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


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links, but for hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root).resolve()
        folders[:] = sorted(
            name for name in folders
            if _visible(name) and not (
                os.path.islink(os.path.join(root, name))  # to a folder above: it has no end
                and here.is_relative_to(os.path.realpath(os.path.join(root, name)))
            )
        )  # fmt: skip
        yield from (Path(root, name) for name in sorted(names) if _visible(name))


def _visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def _split_word(name: str) -> str | None:
    """The split that the first word of a name stands for."""
    word = re.match("[a-z]*", name.lower()).group()  # type: ignore[union-attr]
    return SPLIT_WORDS.get(word)


def _split_of(file: Path) -> str | None:
    """The split a file is of, by its name or else by that of a folder it is in."""
    return next((key for part in reversed(file.parts) if (key := _split_word(part))), None)


def _image_splits(source: Path, pictures: Sequence[Path]) -> dict[str, Split]:
    """The splits of an image folder; each is read on its own, with or without classes."""
    top, parts = source, [file.relative_to(source).parts for file in pictures]
    while (  # folders around the only one are passed through
        len({part[0] for part in parts}) == 1
        and all(len(part) > 2 for part in parts)
        and _split_word(parts[0][0]) is None
    ):
        top, parts = top / parts[0][0], [part[1:] for part in parts]
    words = {part[0]: _split_word(part[0]) for part in parts if len(part) > 1}
    found = set(words.values())
    # A class can have the name of a split, such as "train" beside "bus".
    if not words or not (None not in found or ("train" in found and len(found - {None}) > 1)):
        return {"train": _classes(source, top, pictures, parts, 0)}
    splits: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for index, part in enumerate(parts):
        key = words.get(part[0])
        if key is None:
            place = f"{part[0]}/" if len(part) > 1 else "no folder"
            left[place] = left.get(place, 0) + 1
        else:
            splits.setdefault(key, []).append(index)
    if left:
        listed = ", ".join(f"{count} in {place}" for place, count in left.items())
        warnings.warn(f"Images beside the splits of {top} are left out: {listed}.",
                      UserWarning, stacklevel=callers_level())  # fmt: skip
    return {
        key: _classes(source, top, [pictures[i] for i in rows], [parts[i] for i in rows], 1)
        for key, rows in splits.items()
    }


def _classes(
    source: Path, top: Path, pictures: Sequence[Path], parts: Sequence[tuple[str, ...]], depth: int
) -> Split:
    """A split whose classes, if all its images have one, are the folders at a depth."""
    names = [file.relative_to(source).as_posix() for file in pictures]
    loose = sum(len(part) == depth + 1 for part in parts)
    if loose == 0:
        return Split([str(f) for f in pictures], names, [part[depth] for part in parts])
    if loose < len(parts):
        where = "/".join([str(top), *parts[0][:depth]])
        warnings.warn(
            f"{loose} of {len(parts)} images in {where} are in no sub-folder, so the sub-folders"
            " are not taken for classes: there are no labels.",
            UserWarning, stacklevel=callers_level(),
        )  # fmt: skip
    return Split([str(f) for f in pictures], names)
