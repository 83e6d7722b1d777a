"""What the examples share, in NumPy: the data, random views of it, and the test of an encoder.

Each handwritten digit (8 x 8) lies somewhere in a frame of 10 x 10, which pixels take for a
difference and a person does not. That is what the encoder has to learn without labels.
"""

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

FRAME = 10
PIXELS = FRAME * FRAME
DIGITS = load_digits()
TRAIN, TEST = np.split(np.random.default_rng(0).permutation(len(DIGITS.target)), [1437])
#: Number of training images whose labels the test uses; training uses none.
LABELLED = 200


def placed(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images of the rows, each at a random place of its frame; (N, 10, 10), 0 to 1."""
    at = rng.integers(0, FRAME - 7, (2, len(rows), 1)) + np.arange(8)
    frames = np.zeros((len(rows), FRAME, FRAME), np.float32)
    frames[np.arange(len(rows))[:, None, None], at[0][:, :, None], at[1][:, None]] = (
        DIGITS.images[rows] / 16.0
    )
    return frames


def view(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 100) views of the rows: another place, another contrast, some noise."""
    frames = placed(rows, rng) * rng.uniform(0.7, 1.3, (len(rows), 1, 1))
    return (frames + rng.normal(0.0, 0.1, frames.shape)).reshape(-1, PIXELS).astype(np.float32)


def knn_accuracy(encode: Callable[[np.ndarray], np.ndarray]) -> float:
    """Accuracy on 360 test images by the five nearest of 200 labelled ones, by cosine."""
    images = placed(np.arange(len(DIGITS.target)), np.random.default_rng(1)).reshape(-1, PIXELS)
    known = TRAIN[:LABELLED]
    nearest = KNeighborsClassifier(5, metric="cosine")
    nearest.fit(encode(images[known]), DIGITS.target[known])
    return float(nearest.score(encode(images[TEST]), DIGITS.target[TEST]))
