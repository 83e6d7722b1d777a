"""What every trainer is and keeps: its interface, its history, the order of its batches."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes import evaluation
from fmicl_recipes.data import ImageData, Images
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

Features = NDArray[np.floating]

#: Epochs in a row with collapsed features that make a warning.
COLLAPSE_PATIENCE = 3


class NonFiniteLossError(RuntimeError):
    """Training met a loss or a weight that is NaN or infinite."""

    @classmethod
    def at(cls, loss: float, step: int, epoch: int) -> NonFiniteLossError:
        """The error of a loss that is not finite at a step (from 0) of an epoch (from 1)."""
        return cls(
            f"The loss is {loss} at step {step} (epoch {epoch}). Try a smaller --lr, or --precision"
            " 32 if it is not."
        )

    @classmethod
    def weights(cls, step: int) -> NonFiniteLossError:
        """The error of a weight that is not finite after a step."""
        return cls(f"A weight is not finite after step {step}. Try a smaller --lr.")


class Trainer(ABC):
    """One method in one framework, untrained until `fit` or `load`.

    Args:
        settings: of the run; equal settings give equal weights.
        data: the images.

    Raises:
        ValueError: settings and data do not fit; raised before a run folder is made.
    """

    #: Package of the framework, for messages.
    framework: ClassVar[str]

    @classmethod  # noqa: B027
    def check(cls, settings: TrainSettings) -> None:
        """Check what can be checked before images are decoded: devices, encoders of libraries.

        Raises:
            ValueError: there is no such device, or no such encoder.
        """

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        self.settings, self.data = settings, data
        #: A row an epoch, made by `epoch_row`.
        self.history: list[dict[str, float]] = []
        #: Of training, over all the sittings of the run.
        self.seconds = 0.0

    @abstractmethod
    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end; after every epoch write `folder.checkpoint` and the history.

        Args:
            folder: of the run.
            resume: go on from the checkpoint in the folder, if there is one, exactly as if the run
                had not stopped.
            progress: show a progress bar.

        Raises:
            NonFiniteLossError: training diverged.
        """

    @abstractmethod
    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""

    @abstractmethod
    def encode(self, images: Images) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""

    @abstractmethod
    def project(self, images: Images) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, drawn by `settings.seed`."""


def check_finite_features(*features: Features) -> None:
    """Raise NonFiniteLossError when training has diverged, though every weight may be finite.

    A feature whose squared length overflows float32 counts as one that is not finite: the losses
    see no direction in it, and its row as zero after normalisation looks as if it were far from
    all others. Features of zero length are a collapse, which `evaluation.collapsed` knows.
    """
    for rows in features:
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        if not (squares <= np.finfo(np.float32).max).all():  # nor where one is NaN
            raise NonFiniteLossError(
                "The features are not finite, or their squares are not: training has diverged."
                " Try a smaller --lr."
            )


def knn(trainer: Trainer) -> dict[str, float]:
    """Accuracy in [0, 1] by kNN of the encoder as it is now, by its name in the history.

    There is none without labels.
    """
    data = trainer.data
    if data.labels is None:
        return {}
    labels, test_labels = data.labels
    train, test = trainer.encode(data.train_images), trainer.encode(data.test_images)
    check_finite_features(train, test)
    k = trainer.settings.knn_k
    return {"knn_accuracy": evaluation.knn_accuracy(train, labels, test, test_labels, k=k)}


def epoch_row(
    epoch: int, step: int, loss: float, x: Features, y: Features, **measured: float
) -> dict[str, float]:
    """A row of the history.

    Args:
        epoch: just finished, from 1.
        step: steps so far.
        loss: mean over the epoch.
        x: (N, d) what the loss saw of the epoch's last batch: first view, or queries.
        y: (N, d) second view, or keys.
        measured: "images_per_second", and "knn_accuracy" where it was measured.
    """
    check_finite_features(x, y)
    spread = evaluation.spread(x, y)
    return {"epoch": epoch, "step": step, "loss": loss, **spread, **measured}


def warn_of_collapse(history: Sequence[Mapping[str, float]]) -> None:
    """Warn at the epoch that makes `COLLAPSE_PATIENCE` collapsed ones in a row; once per collapse.

    Not at the first one: features of an untrained encoder can lie close together, too.
    """
    collapsed = [evaluation.collapsed(row) for row in reversed(history)]
    if sum(1 for _ in takewhile(bool, collapsed)) != COLLAPSE_PATIENCE:
        return
    last = history[-1]
    warnings.warn(
        f"The features have collapsed by epoch {last['epoch']:.0f}: embedding rank"
        f" {last['embedding_rank']:.1f}, uniformity {last['uniformity']:.2f}. They hardly tell"
        " samples apart. reverse_kl and neyman do that by themselves; otherwise try another alpha"
        " or a smaller --lr.",
        UserWarning,
        stacklevel=2,
    )


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch's batches, (steps, batch_size), in an order drawn from (seed, epoch).

    A last partial batch is left out.
    """
    steps = count // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[: steps * batch_size].reshape(steps, batch_size)
