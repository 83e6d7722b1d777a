"""The decoded images of a source, kept in a file, so that they are decoded once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.table import ROOT
from fmicl_recipes.data import ImageData, load_images
from fmicl_recipes.files import write_atomically

#: Where the parquet files of CIFAR-10 may lie; git ignores the folder.
CARRIED = ROOT / ".data" / "cifar10"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def default_source() -> str:
    """The folder of parquet files where there is one, else the name at the hub."""
    return str(CARRIED) if CARRIED.is_dir() else "cifar10"


def decoded(source: str, limit: int | None, folder: Path) -> Path:
    """File of the decoded images, made unless it is there.

    Args:
        source: name of the data set, as `load_images` takes it.
        limit: number of training images to keep at most.
        folder: folder of the file. The name of the file has a digest of what the images are made
            from: of files, names, sizes and times.

    Raises:
        ValueError: there are no such images.
    """
    root = Path(source).expanduser()
    files = sorted(root.rglob("*")) if root.is_dir() else [root] if root.exists() else []
    facts = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file()]
    digest = hashlib.sha256(json.dumps([source, limit, facts]).encode()).hexdigest()[:10]
    path = folder / f"images-{digest}.npz"
    if not path.exists():
        data = load_images(source, limit=limit, progress=False)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"name": data.name, "evaluated_on": data.evaluated_on,
                 "class_names": data.class_names}  # fmt: skip
        arrays: dict[str, Any] = {name: getattr(data, name) for name in ARRAYS}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        write_atomically(path, lambda file: np.savez(file, names=json.dumps(names), **arrays))
    return path


def read(path: Path) -> ImageData:
    """The images of a file that `decoded` made."""
    with np.load(path) as file:
        names = json.loads(str(file["names"]))
        arrays = {name: file.get(name) for name in ARRAYS}
    classes = names.pop("class_names")
    return ImageData(**arrays, **names, class_names=None if classes is None else tuple(classes))
