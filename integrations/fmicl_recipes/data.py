"""Images from anywhere as uint8 arrays, split into those to train and those to evaluate on.

Scope: the decoded images are held in memory, which suits data up to some gigabytes; a larger set
is refused before decoding.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from fmicl_core.checks import check_at_least, invalid
from fmicl_recipes.sources import TEST_SPLITS, open_splits

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
HELD_OUT = "a held-out fifth"
#: Linux's account of its memory.
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class ImageData:
    """Training and test images, with their labels if the source has any.

    Args:
        name: of the data set, for tables and plots.
        train_images: (N, H, W, C) uint8.
        train_labels: (N,) int64, or None.
        test_images: (M, H, W, C) uint8.
        test_labels: (M,) int64, or None.
        evaluated_on: the split that the test images are.
        class_names: of the labels 0, 1, ...; None where they are numbers only.
    """

    name: str
    train_images: Images
    train_labels: Labels | None
    test_images: Images
    test_labels: Labels | None
    evaluated_on: str = "test"
    class_names: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[Labels, Labels] | None:
        """Training and test labels, of two classes at least; None where there are none such."""
        train, test = self.train_labels, self.test_labels
        if train is None or test is None or len(np.unique(train)) < 2:
            return None
        return train, test

    def described(self) -> dict[str, Any]:
        """What metrics.json says of the images, so that runs on other ones can be told apart."""
        digest = hashlib.sha256(np.ascontiguousarray(self.test_images).tobytes())
        return {
            "evaluated_on": self.evaluated_on,
            "train_images": len(self.train_images),
            "test_images": len(self.test_images),
            "image_shape": list(self.train_images.shape[1:]),
            "test_digest": digest.hexdigest(),
        }


def load_images(
    source: str,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: bool = True,
) -> ImageData:
    """Load and decode a data set.

    The test images are the first of the splits `TEST_SPLITS` with labels that training knows. If
    there is none, a stratified fifth of the training images is held out. A warning says which
    split was taken where there is a choice.

    Args:
        source: "digits" (scikit-learn, 8 x 8 pixels), a hub name or alias, a folder of parquet
            files named by split or in folders named so, an image folder (one sub-folder per class,
            under train/ and test/ or not), or one parquet file.
        image_size: resize to this many pixels a side; needed where images differ in size.
        limit: keep at most this many training images, drawn by `seed`.
        seed: of the hold-out and of `limit`.
        image_column: name of the column of images; None takes the first that holds images.
        label_column: name of the column of labels; None takes one of `LABEL_COLUMNS`.
        progress: show a progress bar while decoding.

    Raises:
        ValueError: naming what is wrong with the source: no such path, no images, a corrupt image,
            images of different sizes, labels that are no whole numbers, too large for memory, or a
            hub that cannot be reached.
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
        data = replace(data, train_images=data.train_images[keep], train_labels=labels)
    return data


def _digits() -> tuple[Images, Labels]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    return images, bunch.target.astype(np.int64)


def _split(name: str, images: Images, labels: Labels | None, seed: int) -> ImageData:
    """Hold out a fifth, stratified by label, the same for every seed of training but for order."""
    index, share = np.arange(len(images)), 0.2
    if len(index) < 2:
        raise invalid("data", "at least two images, as a part is held out", name)
    sizes = np.unique(labels, return_counts=True)[1] if labels is not None else np.array([1])
    common = sizes.min() >= 2 and len(sizes) <= share * len(index)
    train, test = train_test_split(
        index, test_size=share, random_state=0, stratify=labels if common else None
    )
    pick = (lambda i: None) if labels is None else (lambda i: labels[i])
    return ImageData(name, images[train], pick(train), images[test], pick(test), HELD_OUT)


def validation_split(data: ImageData) -> ImageData:
    """The training images alone, a fifth of them held out in the place of the test images."""
    return _split(data.name, data.train_images, data.train_labels, 0)


def _from_datasets(source: str, size: int | None, seed: int, progress: bool) -> ImageData:
    splits = open_splits(source)
    name = Path(source).name if Path(source).exists() else source
    train = "train" if "train" in splits else next(iter(splits))
    keys = [train, *(key for key in TEST_SPLITS if key in splits and key != train)]
    labels = {key: _labels(splits[key], key, source) for key in keys}
    test = _to_evaluate_on(name, labels)
    train_images = _decode(splits[train], train, source, size, progress)
    if test is None:
        return _split(name, train_images, labels[train], seed)
    test_images = _decode(splits[test], test, source, size, progress)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise invalid("image_size", "a size, as training and test images differ in theirs", size)
    return ImageData(name, train_images, labels[train], test_images, labels[test], test)


def _to_evaluate_on(name: str, labels: Mapping[str, Labels | None]) -> str | None:
    """The split to evaluate on, None for a part of the first one, which is for training."""
    (_, known), *others = labels.items()
    if known is None or not others:
        return others[0][0] if others else None
    usable = [key for key, found in others if found is not None and np.isin(found, known).any()]
    test = usable[0] if usable else None
    useless = [repr(key) for key, _ in others if key not in usable]
    if len(others) > 1 or useless:
        why = f" No labels that training knows are in {', '.join(useless)}." if useless else ""
        warnings.warn(
            f"{name} has the splits {', '.join(key for key, _ in others)} beside training.{why} "
            f"It is evaluated on {HELD_OUT if test is None else repr(test)}.",
            UserWarning,
            stacklevel=4,
        )
    return test


def _labels(split: Any, key: str, source: str) -> Labels | None:
    """The labels of a split, None where there are none; the hub marks a missing one by -1."""
    column = next((name for name in LABEL_COLUMNS if name in split.column_names), None)
    values = [] if column is None else split[column][:]
    missing = sum(value is None for value in values)
    if missing == len(values):
        return None
    kind = getattr(split.features[column], "dtype", "lists")
    if not kind.startswith(("int", "uint", "bool")):
        raise invalid("data", "whole numbers as labels", source, why=f"{column!r} holds {kind}.")
    if missing:
        raise invalid("data", "a label for every image, or for none of a split", source,
                      why=f"{missing} of {key!r} have none.")  # fmt: skip
    labels = np.asarray(values, dtype=np.int64)
    return None if (labels == -1).all() else labels


def _decode(split: Any, key: str, source: str, size: int | None, progress: bool) -> Images:
    import datasets

    column = _image_column(split, source)
    split = split.cast_column(column, datasets.Image(decode=False))
    if len(split) == 0:
        raise invalid("data", "at least one image in every split", source, why=f"{key!r} is empty.")
    bar = tqdm(split[column], desc=f"decode {key}", unit="img", disable=not progress, leave=False)
    return _stack(_pictures(bar, key, size), len(split), source, size)


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
    need, free = first.nbytes * count, _available_memory()
    if need > 0.8 * free:
        fitting = f"images that fit in memory ({free / 2**30:.1f} GiB available)"
        raise invalid("data", fitting, source, why=f"Decoded they take {need / 2**30:.1f} GiB.")
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


def _available_memory() -> int:
    """Bytes a process can get, with what the system would free for it where it says so."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62
