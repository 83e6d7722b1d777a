"""Where images come from: the hub, parquet files, image folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fmicl_core.checks import invalid

#: Short names of hub data sets.
ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
#: Splits to evaluate on, the first that has labels; those of a "test" are often kept back.
TEST_SPLITS = ("validation", "valid", "val", "test")


def check_source(source: str) -> None:
    """Stub until the data helper's lands"""


def open_splits(source: str) -> Any:
    """The splits of an image data set by name, not decoded, by Hugging Face `datasets`.

    Args:
        source: a hub name or alias, a folder of parquet files or of images, or one parquet file.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".parquet":
            raise invalid("data", "a parquet file or a folder", source)
        return _load("parquet", source, data_files={"train": str(path)})
    if path.is_dir():
        return _open_folder(path, source)
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_local or (source not in ALIASES and "/" not in source):
        names = ", ".join(["digits", *ALIASES])
        raise invalid(
            "data", f"a path that exists, a hub name OWNER/NAME, or one of {names}", source
        )
    return _load(ALIASES.get(source, source), source)


def _open_folder(path: Path, source: str) -> Any:
    parquet = sorted(path.rglob("*.parquet"))
    if parquet:
        files: dict[str, list[str]] = {}
        for file in parquet:
            files.setdefault(_split_of(file.relative_to(path)), []).append(str(file))
        return _load("parquet", source, data_files=files)
    pictures = [f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        kinds = ", ".join((*IMAGE_SUFFIXES, ".parquet"))
        raise invalid("data", f"a folder that holds images or parquet files ({kinds})", source)
    return _load("imagefolder", source, data_dir=str(path))


def _split_of(file: Path) -> str:
    """The split a file is of, by the first word of its name or else of a folder it is in."""
    for part in reversed(file.parts):
        word = re.match("[a-z]*", part.lower()).group()  # type: ignore[union-attr]
        if word in ("train", *TEST_SPLITS):
            return word
    return "train"


def _load(kind: str, source: str, **files: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(kind, **files)
    except Exception as error:  # the library raises many kinds, and all mean the same to the user
        if files:
            raise invalid("data", "files that Hugging Face datasets can read", source,
                          why=f"It said: {error}.") from error  # fmt: skip
        raise invalid(
            "data",
            "a data set that can be reached",
            source,
            why=f"The hub's {kind!r} could not be loaded ({type(error).__name__}). Without access "
            "to the hub give a local path: a folder of parquet files or of images.",
        ) from error
