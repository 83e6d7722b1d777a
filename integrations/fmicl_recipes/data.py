"""Images from anywhere as uint8 arrays, split into those to train and those to evaluate on.

Scope: the decoded images are held in memory, which suits data up to some gigabytes; a larger set
is refused before decoding.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fmicl_core.checks import callers_level, check_at_least, invalid
from fmicl_recipes.pictures import Decoder, Images, same_channels, stack
from fmicl_recipes.sources import open_splits
from fmicl_recipes.splits import TEST_SPLITS, Labels, numbered

HELD_OUT = "a held-out fifth"


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

    @property
    def digest(self) -> str:
        """SHA-256 of all pixels, training and test."""
        return _digest(self.train_images, self.test_images)

    def described(self) -> dict[str, Any]:
        """What metrics.json says of the images, so that runs on other ones can be told apart."""
        return {
            "evaluated_on": self.evaluated_on,
            "train_images": len(self.train_images),
            "test_images": len(self.test_images),
            "image_shape": list(self.train_images.shape[1:]),
            "test_digest": _digest(self.test_images),
        }


def _digest(*arrays: Images) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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

    The test images are the first of the splits `TEST_SPLITS` with labels that training knows, or
    the first of them where training has no labels. If there is none, a fifth of the training
    images, stratified by label, is held out. A warning says which split was taken where there is a
    choice. docs/data.md says what is read, and how.

    Args:
        source: "digits" (scikit-learn, 8 x 8 pixels), a hub name or alias, a folder of parquet
            files named by split or in folders named so, an image folder (one sub-folder per class,
            under train/ and test/ or not), or one parquet file.
        image_size: resize to this many pixels a side; needed where images differ in size.
        limit: keep at most this many training images, drawn by `seed`.
        seed: of the hold-out and of `limit`.
        image_column: name of the column of images; None takes the first that holds images.
        label_column: name of the column of labels, or "none" for images without; None takes one
            with a usual name.
        progress: show a progress bar while decoding, and say what was changed in the pictures.

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
    decoder = Decoder(None if image_size is None else (image_size, image_size))
    images = [
        stack(decoder.decode(splits[key], key, source, progress), len(splits[key].pictures), source)
        for key in (first, test) if key is not None
    ]  # fmt: skip
    if progress:
        decoder.tell()
    if test is None:
        data = _split(name, images[0], labels[first], class_names)
    else:
        images = same_channels(*images)
        if images[0].shape[1:] != images[1].shape[1:]:
            raise invalid("image_size", "a size, as training and test images differ in theirs",
                          image_size)  # fmt: skip
        data = ImageData(name, images[0], labels[first], images[1], labels[test], test, class_names)
    if limit is not None and limit < len(data.train_images):
        check_at_least("limit", limit, 2)
        keep = np.sort(np.random.default_rng(seed).permutation(len(data.train_images))[:limit])
        kept = None if data.train_labels is None else data.train_labels[keep]
        data = replace(data, train_images=data.train_images[keep], train_labels=kept)
    return data


def _split(
    name: str, images: Images, labels: Labels | None, class_names: tuple[str, ...] | None
) -> ImageData:
    """Hold out a fifth, stratified by label, the same for every seed of training but for order."""
    from sklearn.model_selection import train_test_split

    index, share = np.arange(len(images)), 0.2
    if len(index) < 2:
        raise invalid("data", "at least two images, as a part is held out", name)
    sizes = np.unique(labels, return_counts=True)[1] if labels is not None else np.array([1])
    common = sizes.min() >= 2 and len(sizes) <= share * len(index)
    train, test = train_test_split(
        index, test_size=share, random_state=0, stratify=labels if common else None
    )
    pick = (lambda i: None) if labels is None else (lambda i: labels[i])
    return ImageData(
        name, images[train], pick(train), images[test], pick(test), HELD_OUT, class_names
    )


def validation_split(data: ImageData) -> ImageData:
    """The training images alone, a fifth of them held out in the place of the test images."""
    return _split(data.name, data.train_images, data.train_labels, data.class_names)


def _to_evaluate_on(name: str, labels: Mapping[str, Labels | None]) -> str | None:
    """The split to evaluate on, None for a part of the first one, which is for training."""
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
