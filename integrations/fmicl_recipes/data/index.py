"""The index of a split: height, width and channels of every picture, kept for the next time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.data.pictures import GREY, ORIENTATION, TURNED, CorruptImage, Decoder, opened
from fmicl_recipes.data.splits import Split
from fmicl_recipes.files import write_atomically
from fmicl_recipes.stream import Item, stream

#: Pictures of which the headers are read in this process, as others take seconds to start.
FEW = 4000
#: Pictures of one piece of work, where headers are read and where all is decoded.
HEADERS, DECODED = 1000, 100
#: Changes when indexes of before are no longer to be read.
VERSION = 1

#: (N, 3): height, width and channels of pictures as `Decoder` gives them; 0 of corrupt ones.
Index = NDArray[np.int32]


def index_of(
    split: Split, key: str, *, decode: bool = False, workers: int = 0, progress: bool = False
) -> Index:
    """The index of a split, of an earlier time if the pictures are still the same.

    Args:
        split: what to look at.
        key: name of the split.
        decode: whether to decode every picture, which finds all that are corrupt, instead of
            reading its header.
        workers: number of processes that read.
        progress: whether to show a progress bar.
    """
    from tqdm.auto import tqdm

    count, size = len(split.pictures), DECODED if decode else HEADERS
    file = _file(split, decode) if count > size else None
    if file is not None and (known := _read(file, count)) is not None:
        return known
    pieces = _Pieces(split.pictures, size, decode)
    workers = 0 if count <= (FEW // 10 if decode else FEW) else min(workers, len(pieces))
    found: list[Index] = []
    says = "decode" if decode else "read the sizes of"
    with tqdm(total=count, desc=f"{says} {key}", unit="img", disable=not progress,
              leave=False, delay=1) as bar:  # fmt: skip
        for item in stream(pieces, workers=workers):
            found.append(item["index"])
            bar.update(len(item["index"]))
    index = np.concatenate(found) if found else np.zeros((0, 3), np.int32)
    if file is not None and (decode or index[:, 0].all()):
        with suppress(OSError):  # without it the pictures are looked at again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda out: np.save(out, index))
    return index


def header(picture: Any) -> tuple[int, int, int]:
    """Height, width and channels that a picture will have, without decoding it; 0 if corrupt."""
    try:
        with opened(picture) as image:
            width, height = _upright(image, picture)
            grey = image.mode in GREY or image.mode.startswith("I")
            return height, width, 1 if grey else 3
    except Exception:  # of Pillow's many kinds; decoding it says which
        return 0, 0, 0


def decoded(picture: Any) -> tuple[int, int, int]:
    """Height, width and channels of a picture that is decoded for it; 0 if it is corrupt."""
    try:
        height, width, channels = Decoder().array(picture, "").shape
    except CorruptImage:
        return 0, 0, 0
    return height, width, channels


def stamps(pictures: Sequence[Any]) -> NDArray[np.int64]:
    """(N, 2): bytes of every picture, and the time in ns at which its file was changed, if any."""
    found = np.zeros((len(pictures), 2), np.int64)
    if isinstance(pictures, np.ndarray):
        found[:, 0] = pictures[:1].nbytes
        return found
    found[:, 0] = pictures.lengths() if hasattr(pictures, "lengths") else -1
    for row in np.flatnonzero(found[:, 0] < 0).tolist():
        with suppress(OSError, TypeError):  # it is gone, or there is none in this row
            status = os.stat(pictures[row])
            found[row] = status.st_size, status.st_mtime_ns
    return found


def cache_folder() -> Path:
    """The folder in which indexes are kept."""
    if own := os.environ.get("FMICL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fmicl"


class _Pieces:
    """The index in pieces, by number."""

    nbytes = HEADERS * 12

    def __init__(self, pictures: Sequence[Any], size: int, decode: bool) -> None:
        self.pictures, self.size, self.look = pictures, size, decoded if decode else header

    def __len__(self) -> int:
        return -(-len(self.pictures) // self.size)

    def __getitem__(self, number: int) -> Item:
        rows = range(number * self.size, min(len(self.pictures), (number + 1) * self.size))
        return {"index": np.array([self.look(self.pictures[row]) for row in rows], np.int32)}


def _upright(image: Any, picture: Any) -> tuple[int, int]:
    """Width and height of a picture once it is turned as EXIF says."""
    from PIL import ImageOps

    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode it to find EXIF behind the pixels.
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        if b"eXIf" not in content and b"Raw profile type exif" not in content:
            return image.size
        image = opened(content)
        return ImageOps.exif_transpose(image).size
    width, height = image.size
    if image.getexif().get(ORIENTATION) not in TURNED:
        return width, height
    if image.format == "TIFF":  # whose size is turned already in some versions of Pillow
        return ImageOps.exif_transpose(image).size
    return height, width


def _file(split: Split, decode: bool) -> Path | None:
    """Where the index of a split is kept; another file for other pictures."""
    if isinstance(split.pictures, np.ndarray):
        return None
    digest = hashlib.sha256(f"{VERSION} {decode}".encode())
    digest.update(getattr(split.pictures, "fingerprint", "").encode())
    for name in split.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(np.ascontiguousarray(stamps(split.pictures)).data)
    return cache_folder() / f"index-{digest.hexdigest()[:32]}.npy"


def _read(file: Path, count: int) -> Index | None:
    try:
        index: Index = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return index if index.shape == (count, 3) and index.dtype == np.int32 else None
