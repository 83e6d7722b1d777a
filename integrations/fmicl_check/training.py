"""The trainings that the trainers of all frameworks go through: settings, images and weights.

Everything is drawn in NumPy from a fixed seed. Weights have their canonical names; the views are
crops of an image that were made as it was read, as with images on disk, so that the trainers'
augmentations, all of strength 0, leave them alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import check_at_least
from fmicl_recipes.augmentation import Photo
from fmicl_recipes.choices import METHODS
from fmicl_recipes.data import ImageData, Images, StoredImages, load_images
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.weights import Architecture, Weights, method_arrays

SEED, BATCH = 0, 64
#: Precision of the trainers by dtype.
PRECISIONS = {"float64": "64", "float32": "32"}
DTYPES = tuple(PRECISIONS)
#: Losses by name, as options. Sixteen dimensions want a small alpha: with the default of 40 a
#: momentum encoder's keys and the queries drift to opposite poles.
LOSSES: dict[str, dict[str, Any]] = {
    "kl-micl": {"loss": "fmicl", "divergence": "kl", "alpha": 8.0},
    "info-nce": {"loss": "info-nce"},
}
#: Networks small enough for 8 x 8 digits, and what else a method needs.
OPTIONS: dict[str, dict[str, Any]] = {
    "simclr": {"encoder": "smallconv", "width": 4},
    "moco": {"encoder": "smallconv", "width": 4, "queue_size": 256, "ema": 0.99},
    "moco-v3": {"encoder": "vit-s6", "width": 4, "ema": 0.99},
}
#: Optimisers, with a rate at which they train.
RATES = {"sgd": 0.02, "adamw": 1e-3, "lars": 1.0}
#: Views: pixels of shift, range of contrast, and mean and deviation of the noise, of 255. Without
#: noise all the black pixels would meet the kink of a ReLU at once.
SHIFT, CONTRAST, NOISE = 1, 0.3, (32.0, 8.0)


@dataclass(frozen=True)
class Training:
    """A training in one dtype.

    Args:
        method: name of the method.
        loss: name in `LOSSES`.
        dtype: dtype of weights and arithmetic, in `DTYPES`.
        steps: number of steps.
        optimizer: name of the optimiser, in `RATES`.
    """

    method: str
    loss: str
    dtype: str
    steps: int
    optimizer: str = "sgd"

    @property
    def title(self) -> str:
        """Loss and, where it is not the usual one, optimiser."""
        return self.loss if self.optimizer == "sgd" else f"{self.loss} {self.optimizer}"

    def settings(self, framework: str, **place: Any) -> TrainSettings:
        """The settings of a trainer, with a warm-up, a weight decay and a momentum.

        Args:
            framework: framework that trains.
            place: options that say where, `device` and `keras_backend`.
        """
        per_epoch = epoch_length(self.steps)
        epochs = self.steps // per_epoch
        momentum: dict[str, Any] = {} if self.optimizer == "adamw" else {"momentum": 0.9}
        return TrainSettings(
            method=self.method, framework=framework, precision=PRECISIONS[self.dtype],
            optimizer=self.optimizer, lr=RATES[self.optimizer], weight_decay=1e-3,
            batch_size=BATCH, epochs=epochs, warmup_epochs=min(epochs - 1, -(-epochs // 10)),
            projection_hidden=32, projection_dim=16, seed=SEED, data="digits", cache="disk",
            augmentation="photo", jitter=0.0, grayscale=0.0, flip=0.0, workers=0,
            **OPTIONS[self.method], **LOSSES[self.loss], **momentum, **place,
        )  # fmt: skip


def trainings(
    methods: Iterable[str], steps: int, dtypes: Iterable[str], optimizers: bool = True
) -> list[Training]:
    """Every method with every loss in every dtype by SGD; SimCLR also by the other optimisers.

    Args:
        methods: names of methods.
        steps: number of steps.
        dtypes: names in `DTYPES`.
        optimizers: whether to take the other optimisers, too, in float64.

    Raises:
        ValueError: steps is not a whole number >= 1.
    """
    check_at_least("steps", steps, 1)
    methods, dtypes = list(methods), list(dtypes)
    found = [
        Training(method, loss, dtype, steps)
        for method in METHODS if method in methods
        for loss in LOSSES for dtype in DTYPES if dtype in dtypes
    ]  # fmt: skip
    if optimizers and "simclr" in methods and "float64" in dtypes:
        others = [name for name in RATES if name != "sgd"]
        found += [Training("simclr", "kl-micl", "float64", steps, name) for name in others]
    return found


def epoch_length(steps: int) -> int:
    """Steps of an epoch: at most 10, and a divisor of all steps, with two epochs if it can be."""
    return max(d for d in range(1, 11) if steps % d == 0 and (d == 1 or steps // d > 1))


class DrawnViews(StoredImages):
    """Images whose random crops are shifts with another contrast and noise, made in NumPy.

    Args:
        images: uint8 images (N, H, W, C).
    """

    def __init__(self, images: Images) -> None:
        super().__init__(list(images), [str(i) for i in range(len(images))], images.shape[1:])

    def crops(
        self, rows: NDArray[np.int64], draws: NDArray[np.float64], strengths: Photo
    ) -> Images:
        """Views (n, V, H, W, C) of n images, by the numbers (n, V, 4), see `StoredImages`."""
        images = np.asarray(self.pictures)[rows]
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
        down, right = (
            np.floor(draws[:, :, i] * (2 * SHIFT + 1)).astype(int)[:, :, None, None]
            for i in range(2)
        )
        at = np.arange(len(images))[:, None, None, None]
        views = padded[at, down + np.arange(height)[:, None], right + np.arange(width)]
        contrast = 1.0 + CONTRAST * (2.0 * draws[:, :, 2, None, None, None] - 1.0)
        noise = np.random.default_rng(draws.view(np.uint64)[0, 0]).normal(*NOISE, views.shape)
        return np.rint(np.clip(0.6 * contrast * views + noise, 0.0, 255.0)).astype(np.uint8)


def digits(steps: int) -> ImageData:
    """The images of an epoch of so many steps in all: scikit-learn's handwritten digits."""
    data = load_images("digits", progress=False)
    images = np.asarray(data.train_images)[: epoch_length(steps) * BATCH]
    return ImageData("digits", DrawnViews(images), None, data.test_images[:2], None)


def initial_weights(settings: TrainSettings, channels: int = 1) -> Weights:
    """All arrays of a method by canonical name, in float64, none of them at a special value.

    Biases and norms do not start at 0 and 1, so that a decay of theirs shows, nor key networks at
    their query networks, so that momentum shows in the first step.
    """
    rng = np.random.default_rng(SEED)
    entries = method_arrays(settings, Architecture.of(settings, channels))
    weights = {entry.name: _drawn(entry.name, entry.shape, rng) for entry in entries}
    for name in [name for name in weights if name.startswith("key_")]:
        own = weights[name.removeprefix("key_")]
        if "patch_embed" in name:  # frozen, and so the same in both
            weights[name] = own
            continue
        weights[name] = own * (1.0 + 0.05 * rng.standard_normal(own.shape))
    return weights


def _drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if name == "pointer":
        return np.zeros(shape, np.int64)
    noise = rng.standard_normal(shape)
    if name == "queue":
        return noise / np.linalg.norm(noise, axis=1, keepdims=True)
    if len(shape) > 1:
        return noise / np.sqrt(max(1, int(np.prod(shape[1:]))))
    about_one = name.endswith(("weight", "running_var"))
    return 1.0 + 0.1 * np.abs(noise) if about_one else 0.1 * noise


def nudged(weights: Weights, dtype: str) -> Weights:
    """The same, with every number one unit in the last place of the dtype larger or smaller."""
    rng = np.random.default_rng(SEED + 1)
    unit = float(np.finfo(dtype).eps)
    return {
        name: value if value.dtype.kind == "i"
        else value * (1.0 + unit * rng.choice([-1.0, 1.0], size=value.shape))
        for name, value in weights.items()
    }  # fmt: skip
