"""Files that hold many pictures each: their formats, and which one of several is damaged."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Names of formats, as Hugging Face `datasets` has them, by the suffix of files.
FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
#: A folder that `datasets.save_to_disk` has written, as a format; and what is in it.
SAVED, SAVED_FILE = "saved", "state.json"


def damaged(paths: Iterable[str]) -> str | None:
    """What is wrong with the first of these files that cannot be read to its end, if any.

    Args:
        paths: paths of files, or of folders that `datasets.save_to_disk` has written.
    """
    for path in paths:
        files = sorted(map(str, Path(path).glob("*.arrow"))) if os.path.isdir(path) else [path]
        for file in files:
            try:
                READERS[os.path.splitext(file)[1].lower()](file)
            except Exception as error:  # of many kinds
                said = f"{file} cannot be read to its end: {type(error).__name__}: {error}"
                return said.rstrip(". ")
    return None


def _read_parquet(file: str) -> None:
    from pyarrow import parquet

    parquet.read_metadata(file)


def _read_arrow(file: str) -> None:
    import pyarrow

    with pyarrow.memory_map(file) as source:
        try:
            pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            pyarrow.ipc.open_file(source).read_all()


def _read_tar(file: str) -> None:
    with tarfile.open(file) as tar:
        for _ in tar:
            pass


#: What reads a file to its end, by suffix.
READERS: dict[str, Any] = {".parquet": _read_parquet, ".arrow": _read_arrow, ".tar": _read_tar}
