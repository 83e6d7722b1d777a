"""The arrays from which every framework trains: weights, batches and views, drawn in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fmicl_check.base import Array
from fmicl_core.checks import check_at_least
from fmicl_recipes.data import load_images

SEED = 0
BATCH = 128
#: Widths of the layers. Digits have 8 x 8 pixels.
PARTS = {"encoder": (64, 64, 64), "head": (64, 64, 16), "predictor": (16, 64, 16)}
DIM = PARTS["head"][-1]
#: Strengths of the augmentation: pixels of shift, range of contrast, deviation of noise.
SHIFT, CONTRAST, NOISE = 1, 0.4, 0.1


@dataclass(frozen=True)
class Setup:
    """The arrays of a run, the same for every framework.

    Args:
        weights: weights of a small multilayer perceptron, named "part.layer.weight" and
            "part.layer.bias".
        views: two views of the images of every step, (steps, 2, BATCH, 64), less the mean image.
        queue: first content of MoCo's queue, (K, DIM) unit rows.
    """

    weights: dict[str, Array]
    views: Array
    queue: Array

    def nudged(self, dtype: str) -> Setup:
        """The same with every weight one unit in the last place of the dtype larger or smaller."""
        rng = np.random.default_rng(SEED + 1)
        unit = float(np.finfo(dtype).eps)
        weights = {
            k: v * (1.0 + unit * rng.choice([-1.0, 1.0], size=v.shape))
            for k, v in self.weights.items()
        }
        return Setup(weights, self.views, self.queue)


def make_setup(steps: int, queue: int) -> Setup:
    """Weights, views and queue for that many steps on scikit-learn's handwritten digits.

    Args:
        steps: number of steps.
        queue: number of rows K of the queue.

    Raises:
        ValueError: steps is not a whole number >= 1.
    """
    check_at_least("steps", steps, 1)
    rng = np.random.default_rng(SEED)
    weights = _weights(rng)
    rows = rng.normal(size=(queue, DIM))
    images = np.asarray(load_images("digits").train_images)[..., 0] / 255.0
    views = np.stack([_two_views(batch, rng) for batch in _batches(images, steps, rng)])
    centred = 2.0 * (views - images.reshape(len(images), -1).mean(axis=0))
    return Setup(weights, centred, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _weights(rng: np.random.Generator) -> dict[str, Array]:
    """He's initialisation; biases start at 0."""
    weights = {}
    for part, widths in PARTS.items():
        for layer, (n, m) in enumerate(pairwise(widths)):
            weights[f"{part}.{layer}.weight"] = rng.normal(size=(n, m)) * np.sqrt(2.0 / n)
            weights[f"{part}.{layer}.bias"] = np.zeros(m)
    return weights


def _batches(images: Array, steps: int, rng: np.random.Generator) -> Iterator[Array]:
    """Shuffled batches, epoch after epoch; images that do not fill a batch are left out."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        yield images[order[:BATCH]]
        order = order[BATCH:]


def _two_views(images: Array, rng: np.random.Generator) -> Array:
    """Two views (2, N, 64) of images (N, 8, 8): shifted, with another contrast, noisy."""
    n, height, width = images.shape
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    views = []
    for _ in range(2):
        down, right = rng.integers(0, 2 * SHIFT + 1, size=(2, n, 1, 1))
        rows = down + np.arange(height)[None, :, None]
        columns = right + np.arange(width)[None, None, :]
        view = padded[np.arange(n)[:, None, None], rows, columns]
        view = view * rng.uniform(1.0 - CONTRAST, 1.0 + CONTRAST, size=(n, 1, 1))
        views.append((view + NOISE * rng.normal(size=view.shape)).reshape(n, -1))
    return np.stack(views)
