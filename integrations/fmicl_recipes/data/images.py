"""`ImageData`: the images of a run, to train on and to evaluate on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.data.splits import NO_LABEL, Images, Labels
from fmicl_recipes.data.stored import StoredImages

#: What is expected of images whose labels are needed.
CLASSES = "images with labels, of two classes at least"


@dataclass(frozen=True)
class ImageData:
    """Training and test images, with their labels if the source has any.

    Args:
        name: name of the data set, for tables and plots.
        train_images: (N, H, W, C) uint8, or `StoredImages`.
        train_labels: (N,) int64, or None.
        test_images: (M, H, W, C) uint8, or `StoredImages`.
        test_labels: (M,) int64, or None.
        evaluated_on: name of the split that the test images come from.
        class_names: names of the labels 0, 1, ...; None where they are numbers only.
    """

    name: str
    train_images: Images | StoredImages
    train_labels: Labels | None
    test_images: Images | StoredImages
    test_labels: Labels | None
    evaluated_on: str = "test"
    class_names: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[Labels, Labels] | None:
        """Training and test labels; None where there are none, or training knows one class only."""
        train, test = self.train_labels, self.test_labels
        if train is None or test is None or len(np.unique(train)) < 2:
            return None
        return train, test

    def class_ids(self) -> NDArray[np.int32]:
        """The classes (N,) of the training images as numbers 0, 1, ..., for a supervised loss.

        Raises:
            ValueError: there are no labels, or all the same, or an image has the label -1, none.
        """
        labels = self.train_labels
        why = "Supervised training takes the labels of the training images."
        if labels is None or len(classes := np.unique(labels)) < 2:
            raise invalid("data", CLASSES, self.name, why=why)
        if none := int((labels == NO_LABEL).sum()):
            expected = f"a label other than {NO_LABEL}, which is none, for every training image"
            raise invalid("data", expected, self.name, why=f"{why} {none} have none.")
        return np.searchsorted(classes, labels).astype(np.int32)

    @property
    def digest(self) -> str:
        """SHA-256 of all pixels, training and test; of `StoredImages` that of their stamps."""
        return _digest(self.train_images, self.test_images)

    def described(self) -> dict[str, Any]:
        """What metrics.json says of the images, so that runs on other images can be told apart."""
        return {
            "evaluated_on": self.evaluated_on,
            "train_images": len(self.train_images),
            "test_images": len(self.test_images),
            "image_shape": list(self.train_images.shape[1:]),
            "test_digest": _digest(self.test_images),
        }


def _digest(*images: Images | StoredImages) -> str:
    digest = hashlib.sha256()
    for of in images:
        if isinstance(of, StoredImages):
            digest.update(of.stamp())
        else:
            digest.update(np.ascontiguousarray(of).data)
    return digest.hexdigest()
