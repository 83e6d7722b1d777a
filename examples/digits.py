"""What the examples share and is no framework's business: the data, random views, the test."""

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = (IMAGES / 16.0).astype(np.float32)
TRAIN, TEST = train_test_split(np.arange(len(LABELS)), test_size=0.2, random_state=0)


def view(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 64) images, each shifted by up to a pixel, with another contrast and some noise."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    shifts = rng.integers(0, 3, (2, len(images), 1)) + np.arange(8)
    shifted = padded[
        np.arange(len(images))[:, None, None], shifts[0][:, :, None], shifts[1][:, None]
    ]
    contrast, noise = rng.uniform(0.6, 1.4, (len(images), 1, 1)), rng.normal(0, 0.1, shifted.shape)
    return (contrast * shifted + noise).reshape(-1, 64).astype(np.float32)


def pairs_of_views(epochs: int, size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two views of every training image, in batches of `size`, the same in every framework."""
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(TRAIN), len(TRAIN) // size):
            yield view(IMAGES[batch], rng), view(IMAGES[batch], rng)


def knn_accuracy(encode: Callable[[np.ndarray], np.ndarray], labelled: int = 100) -> float:
    """Accuracy on the test images of the nearest of `labelled` training images, by cosine."""
    known = TRAIN[:labelled]
    nearest = KNeighborsClassifier(1, metric="cosine").fit(encode(IMAGES[known]), LABELS[known])
    return float(nearest.score(encode(IMAGES[TEST]), LABELS[TEST]))
