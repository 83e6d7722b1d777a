"""Archives of arrays, .npz, and checkpoints that are archives: read without pickles and bombs."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as layout
from numpy.typing import NDArray

#: Kinds of NumPy's dtypes that are read: truth values and numbers; and texts.
NUMBERS = "biuf"
KINDS = f"{NUMBERS}U"


def check_archive(path: Path) -> None:
    """Check that a file is an archive whose members are stored as they are, each for itself.

    `numpy.savez` and `torch.save` write such ones. What is read of one then takes as much memory
    as the file takes of the disk, at most.

    Raises:
        ValueError: it is none, or members are compressed, or lie one over the other.
    """
    with _opened(path):
        pass


def read_arrays(path: Path, groups: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file as `numpy.savez` writes it; no code in the file is run.

    Args:
        path: file to read.
        groups: arrays to read, by the part of their names before a "/"; None: all.

    Raises:
        ValueError: the file is damaged, or holds something else than numbers and texts, or an array
            whose header says another size than it has.
    """
    with _opened(path) as archive:
        found = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if groups is None or name.split("/")[0] in groups:
                found[name] = _array(archive, member)
        return found


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        if not path.is_file():
            raise ValueError(f"{path.name} is no file")
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
        sizes = [(member.compress_size, member.file_size) for member in members]
        plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not plain or any(stored != size for stored, size in sizes):
            raise ValueError("members are compressed")
        if sum(size for size, _ in sizes) > path.stat().st_size:
            raise ValueError("members lie one over the other")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two members have one name")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    return archive


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    try:
        with archive.open(member) as file:
            version = layout.read_magic(file)
            header = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}
            shape, fortran, dtype = header[version](file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind not in KINDS or not dtype.itemsize:
                raise ValueError(f"{member.filename!r} is of the dtype {dtype}")
            if min(shape, default=0) < 0 or size != member.file_size - file.tell():
                raise ValueError(f"{member.filename!r} has not the size of its shape {shape}")
            numbers = np.frombuffer(bytearray(file.read(size)), dtype)
    except Exception as error:  # whatever is said of a damaged header, which is read as Python
        raise ValueError(f"{member.filename!r}: {error}") from error
    return numbers.reshape(shape, order="F" if fortran else "C")
