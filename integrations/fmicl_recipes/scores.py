"""Scores of a trainer as it is, and of its baselines: raw pixels and the untrained encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.data import AnyImages, StoredImages
from fmicl_recipes.data.stored import StoredCrops, rows_of
from fmicl_recipes.draws import crop_draws
from fmicl_recipes.evaluation import evaluate_features
from fmicl_recipes.history import check_finite_features
from fmicl_recipes.sphere import PAIR_ROWS, collapsed, spread
from fmicl_recipes.trainer import Trainer

#: What embeddings.npz of a run holds: features, labels and names of classes of the test images.
Arrays = dict[str, NDArray[Any]]


def score(trainer: Trainer) -> tuple[Arrays, dict[str, Any]]:
    """Features and scores of a trainer.

    Accuracies are those of the encoder's features; there are none without labels. Alignment,
    uniformity and rank are those of the projections of two random views of test images.

    Raises:
        NonFiniteLossError: features are not finite.
    """
    settings, data = trainer.settings, trainer.data
    test = trainer.encode(data.test_images)
    x, y = trainer.project(images_of_pairs(trainer))
    check_finite_features(test, x, y)
    features: Arrays = {"test": test, "view_x": x, "view_y": y}
    scores: dict[str, Any] = {}
    if data.labels is not None:
        labels, test_labels = data.labels
        train = trainer.encode(data.train_images)
        check_finite_features(train)
        scores |= evaluate_features(
            train, labels, test, test_labels,
            k=settings.knn_k, knn_train=settings.knn_train, seed=settings.seed,
        )  # fmt: skip
        features["test_labels"] = test_labels
        if data.class_names is not None:
            features["class_names"] = np.array(data.class_names)
    of_views = spread(x, y)
    return features, scores | of_views | {"collapsed": collapsed(of_views)}


def images_of_pairs(trainer: Trainer) -> AnyImages:
    """The test images of which `Trainer.project` makes two views: the first `PAIR_ROWS`."""
    settings, images = trainer.settings, trainer.data.test_images
    first = rows_of(images, np.arange(min(PAIR_ROWS, len(images))))
    if settings.crops_when_read and isinstance(first, StoredImages):
        return StoredCrops(first, crop_draws(len(first), 2, settings.seed, 0), settings.photo())
    return first


def baseline_scores(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Scores of raw pixels, which need labels, and of the untrained encoder.

    Of images that stay in their files, as they do not fit in memory, there are none of raw pixels.
    """
    settings, data = trainer.settings, trainer.data
    _, untrained = score(trainer)
    if data.labels is None or isinstance(data.train_images, StoredImages):
        return {"random encoder": untrained}
    labels, test_labels = data.labels
    pixels, test_pixels = (
        np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255.0
        for images in (data.train_images, data.test_images)
    )
    raw = evaluate_features(
        pixels, labels, test_pixels, test_labels,
        k=settings.knn_k, knn_train=settings.knn_train, seed=settings.seed,
    )  # fmt: skip
    return {"raw pixels": raw, "random encoder": untrained}
