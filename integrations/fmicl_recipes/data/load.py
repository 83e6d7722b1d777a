"""From the name of a source to `ImageData`: decoded or to be decoded, numbered, and split."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import callers_level, check_at_least, invalid
from fmicl_recipes.data.images import ImageData
from fmicl_recipes.data.pictures import check_some
from fmicl_recipes.data.places import Options, decode, fit_in_memory, store
from fmicl_recipes.data.sources import open_splits
from fmicl_recipes.data.splits import TEST_SPLITS, Images, Labels, numbered
from fmicl_recipes.data.stored import StoredImages, rows_of
from fmicl_recipes.stream import default_workers

HELD_OUT = "a held-out fifth"


def load_images(
    source: str,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: bool = True,
    cache: str = "memory",
    workers: int | None = None,
    skip_corrupt: bool = False,
) -> ImageData:
    """Load a data set: its images decoded in memory, or as `StoredImages`, which stay in files.

    The test images are the first of the splits `TEST_SPLITS` that has labels which training knows,
    or, where training has no labels, simply the first. If there is no such split, a fifth of the
    training images, stratified by label, is held out. A warning says which split was taken where
    there is a choice. docs/data.md says what is read, and how.

    Args:
        source: "digits" (scikit-learn, 8 x 8 pixels), a hub name or alias, an image folder (one
            sub-folder per class, under train/ and test/ or not), a folder of shards (parquet,
            arrow, tar) named by split or in folders named so, or one shard.
        image_size: pixels a side; images are resized to cover it and cut to their centre. It is
            needed where images differ in size.
        limit: number of training images to keep at most, drawn by `seed`.
        seed: seed of the draw of `limit`.
        image_column: name of the column of images; None takes the first that holds images.
        label_column: name of the column of labels, or "none" for images without; None takes one
            with a usual name.
        progress: whether to show a progress bar, and to say what was changed in the pictures.
        cache: place of the images: "memory" (or "gpu"), "disk" for `StoredImages`, or "auto" for
            memory if the decoded images take at most half of what is free, else disk.
        workers: number of processes that decode images on disk; None takes `default_workers()`.
        skip_corrupt: whether images that cannot be decoded are left out, with a warning. On disk
            all are decoded once to find them.

    Raises:
        ValueError: naming what is wrong with the source: no such path, no images, no such column, a
            corrupt image, images of different sizes, labels for some images only, too large for
            memory, or a hub that cannot be reached.
    """
    splits = open_splits(source, image_column, label_column)
    path = Path(source).expanduser()
    name = path.resolve().name if path.exists() else source
    first = "train" if "train" in splits else next(iter(splits))
    keys = [first, *(key for key in TEST_SPLITS if key in splits and key != first)]
    labels, class_names = numbered({key: splits[key] for key in keys})
    test = _to_evaluate_on(name, labels)
    chosen = {key: splits[key] for key in (first, test) if key is not None}
    for key, split in chosen.items():
        check_some(split, key, source)
    if workers is None:
        workers = default_workers()
    options = Options(source, image_size, skip_corrupt, workers, progress)
    stored = cache == "disk" or (cache == "auto" and not fit_in_memory(chosen, options))
    images, kept = (store if stored else decode)(chosen, options)
    for key, rows in kept.items():
        labels[key] = _rows(labels[key], rows)
    if test is None:
        data = _split(name, images[first], labels[first], class_names)
    else:
        data = ImageData(
            name, images[first], labels[first], images[test], labels[test], test, class_names
        )
    if limit is not None and limit < len(data.train_images):
        check_at_least("limit", limit, 2)
        keep = np.sort(np.random.default_rng(seed).permutation(len(data.train_images))[:limit])
        data = replace(data, train_images=rows_of(data.train_images, keep),
                       train_labels=_rows(data.train_labels, keep))  # fmt: skip
    return data


def validation_split(data: ImageData) -> ImageData:
    """The training images alone, a fifth of them held out in the place of the test images."""
    return _split(data.name, data.train_images, data.train_labels, data.class_names)


def _split(
    name: str,
    images: Images | StoredImages,
    labels: Labels | None,
    class_names: tuple[str, ...] | None,
) -> ImageData:  # fmt: skip
    """Hold out a fifth, stratified by label; the same fifth for every seed of training."""
    from sklearn.model_selection import train_test_split

    index, share = np.arange(len(images)), 0.2
    if len(index) < 2:
        raise invalid("data", "at least two images, as a part is held out", name)
    sizes = np.unique(labels, return_counts=True)[1] if labels is not None else np.array([1])
    common = sizes.min() >= 2 and len(sizes) <= share * len(index)
    train, test = train_test_split(
        index, test_size=share, random_state=0, stratify=labels if common else None
    )
    return ImageData(
        name, rows_of(images, train), _rows(labels, train),
        rows_of(images, test), _rows(labels, test), HELD_OUT, class_names,
    )  # fmt: skip


def _rows(labels: Labels | None, rows: NDArray[np.int64]) -> Labels | None:
    return None if labels is None else labels[rows]


def _to_evaluate_on(name: str, labels: Mapping[str, Labels | None]) -> str | None:
    """Name of the split to evaluate on; None where a part of the training images serves for it.

    Args:
        name: name of the data set, for the warning.
        labels: labels by split, those of the training split first.
    """
    (_, known), *others = labels.items()
    if known is None or len(np.unique(known)) < 2:  # then labels are of no use anywhere
        usable = [key for key, _ in others]
    else:
        usable = [key for key, found in others if found is not None and np.isin(found, known).any()]
    test = usable[0] if usable else None
    useless = [repr(key) for key, _ in others if key not in usable]
    if len(others) > 1 or useless:
        why = f" No labels that training knows are in {', '.join(useless)}." if useless else ""
        warnings.warn(
            f"{name} has the splits {', '.join(key for key, _ in others)} beside training.{why} "
            f"It is evaluated on {HELD_OUT if test is None else repr(test)}.",
            UserWarning,
            stacklevel=callers_level(),
        )
    return test
