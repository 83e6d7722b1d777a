"""Images from anywhere as uint8 arrays: built-in digits, the hub, parquet files, image folders.

Scope: the decoded images are held in memory, which suits data up to some gigabytes; a larger set
is refused before decoding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from fmicl_core.checks import check_at_least, invalid

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

#: Short names of hub data sets.
ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class ImageData:
    """Training and test images with their labels.

    Args:
        name: of the data set, for tables and plots.
        train_images: (N, H, W, C) uint8.
        train_labels: (N,) int64, or None when the source has none.
        test_images: (M, H, W, C) uint8.
        test_labels: (M,) int64, or None.
    """

    name: str
    train_images: Images
    train_labels: Labels | None
    test_images: Images
    test_labels: Labels | None

    def require_labels(self) -> tuple[Labels, Labels]:
        """Training and test labels.

        Raises:
            ValueError: the source has none.
        """
        if self.train_labels is None or self.test_labels is None:
            raise invalid("data", "labelled images, which kNN and linear probe need", self.name)
        return self.train_labels, self.test_labels


def load_images(
    source: str,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ImageData:
    """Load and decode a data set.

    Args:
        source: "digits" (scikit-learn, 8 x 8 pixels), a hub name or alias, a folder of parquet
            files named by split, an image folder (one sub-folder per class, under train/ and test/
            or not), or one parquet file. Without a test split a stratified fifth is held out.
        image_size: resize to this many pixels a side; needed where images differ in size.
        limit: keep at most this many training images, drawn by `seed`.
        seed: of the hold-out and of `limit`.
        progress: show a progress bar while decoding.

    Raises:
        ValueError: naming what is wrong with the source: no such path, no images, a corrupt image,
            images of different sizes, too large for memory, or a hub that cannot be reached.
    """
    if source == "digits":
        images, labels = _digits()
        data = _split("digits", images, labels, seed)
    else:
        data = _from_datasets(source, image_size, seed, progress)
    if limit is not None and limit < len(data.train_images):
        check_at_least("limit", limit, 2)
        keep = np.sort(np.random.default_rng(seed).permutation(len(data.train_images))[:limit])
        labels = None if data.train_labels is None else data.train_labels[keep]
        data = ImageData(
            data.name, data.train_images[keep], labels, data.test_images, data.test_labels
        )
    return data


def _digits() -> tuple[Images, Labels]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    return images, bunch.target.astype(np.int64)


def _split(name: str, images: Images, labels: Labels | None, seed: int) -> ImageData:
    """Hold out a fifth, stratified by label, the same for every seed of training but for order."""
    index = np.arange(len(images))
    common = labels is not None and np.bincount(labels).min() >= 2
    train, test = train_test_split(
        index, test_size=0.2, random_state=0, stratify=labels if common else None
    )
    pick = (lambda i: None) if labels is None else (lambda i: labels[i])
    return ImageData(name, images[train], pick(train), images[test], pick(test))


def validation_split(data: ImageData) -> ImageData:
    """The training images alone, a fifth of them held out in the place of the test images."""
    return _split(data.name, data.train_images, data.train_labels, 0)


def _from_datasets(source: str, size: int | None, seed: int, progress: bool) -> ImageData:
    splits = _open(source)
    name = Path(source).name if Path(source).exists() else source
    decoded = {
        key: _decode(splits[key], key, source, size, progress) for key in _two_splits(splits)
    }
    keys = list(decoded)
    if len(keys) == 1:
        return _split(name, *decoded[keys[0]], seed)
    (train, train_labels), (test, test_labels) = decoded[keys[0]], decoded[keys[1]]
    if train.shape[1:] != test.shape[1:]:
        raise invalid("image_size", "a size, as training and test images differ in theirs", size)
    return ImageData(name, train, train_labels, test, test_labels)


def _two_splits(splits: Any) -> list[str]:
    train = "train" if "train" in splits else next(iter(splits))
    test = next((key for key in TEST_SPLITS if key in splits and key != train), None)
    return [train] if test is None else [train, test]


def _open(source: str) -> Any:
    """The data set's splits, not decoded, by Hugging Face `datasets`."""
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
            stem = file.stem.lower()
            test = next((k for k in TEST_SPLITS if stem.startswith(k)), None)
            files.setdefault("test" if test else "train", []).append(str(file))
        return _load("parquet", source, data_files=files)
    pictures = [f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        kinds = ", ".join((*IMAGE_SUFFIXES, ".parquet"))
        raise invalid("data", f"a folder that holds images or parquet files ({kinds})", source)
    return _load("imagefolder", source, data_dir=str(path))


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


def _decode(
    split: Any, key: str, source: str, size: int | None, progress: bool
) -> tuple[Images, Labels | None]:
    import datasets

    column = _image_column(split, source)
    split = split.cast_column(column, datasets.Image(decode=False))
    labels = next((c for c in LABEL_COLUMNS if c in split.column_names), None)
    if len(split) == 0:
        raise invalid("data", "at least one image in every split", source, why=f"{key!r} is empty.")
    bar = tqdm(split[column], desc=f"decode {key}", unit="img", disable=not progress, leave=False)
    images = _stack(_pictures(bar, key, size), len(split), source, size)
    return images, None if labels is None else np.asarray(split[labels], dtype=np.int64)


def _image_column(split: Any, source: str) -> str:
    import datasets

    for name, feature in split.features.items():
        kind = getattr(feature, "keys", lambda: ())()
        if isinstance(feature, datasets.Image) or {"bytes", "path"} <= set(kind):
            return str(name)
    raise invalid("data", "a column of images", source, why=f"Columns: {split.column_names}.")


def _pictures(rows: Iterable[dict[str, Any]], key: str, size: int | None) -> Iterator[Images]:
    import io

    from PIL import Image

    for index, row in enumerate(rows):
        place = row["path"] if row.get("path") and not row.get("bytes") else f"{key} row {index}"
        try:
            with Image.open(io.BytesIO(row["bytes"]) if row.get("bytes") else row["path"]) as image:
                picture = image.convert("L" if image.mode in ("L", "1") else "RGB")
        except Exception as error:
            raise invalid("data", "images that can be decoded", place, what="corrupt image",
                          why=f"{type(error).__name__}: {error}.") from error  # fmt: skip
        if size is not None and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        array = np.asarray(picture)
        yield array[..., None] if array.ndim == 2 else array


def _stack(pictures: Iterator[Images], count: int, source: str, size: int | None) -> Images:
    first = next(pictures)
    need, free = first.nbytes * count, _free_memory()
    if need > 0.8 * free:
        raise invalid("data", f"images that fit in memory ({free / 2**30:.1f} GiB free)", source,
                      why=f"Decoded they take {need / 2**30:.1f} GiB.")  # fmt: skip
    images = np.empty((count, *first.shape), np.uint8)
    images[0] = first
    for index, picture in enumerate(pictures, start=1):
        if picture.shape[:2] != first.shape[:2]:
            sizes = f"{first.shape[:2]} and {picture.shape[:2]}"
            raise invalid("image_size", f"a size, as images differ in theirs ({sizes})", size)
        if picture.shape[2] > images.shape[3]:  # the first images were grey
            images = np.repeat(images, 3, axis=3)
        images[index] = picture
    return images


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62
