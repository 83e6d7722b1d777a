"""From settings to a trained, evaluated run folder, whatever framework trains."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes import evaluation, report
from fmicl_recipes.data import ImageData, Images, load_images
from fmicl_recipes.encoder import check_checkpoint
from fmicl_recipes.progress import note
from fmicl_recipes.run_folder import BASELINES, RunFolder, write_atomically
from fmicl_recipes.settings import TrainSettings

Features = NDArray[np.floating]

NO_LABELS = (
    "the images have no labels, or all the same: kNN and linear probe are left out, as are raw"
    " pixels and the colours of the embedding"
)
_KEPT = "The last good checkpoint is kept."
_NOTHING_KEPT = "There was no checkpoint yet, and nothing is kept."

#: Epochs in a row with collapsed features that make a warning.
COLLAPSE_PATIENCE = 3


class NonFiniteLossError(RuntimeError):
    """Training met a loss or a weight that is NaN or infinite."""

    @classmethod
    def at(cls, loss: float, step: int, epoch: int) -> NonFiniteLossError:
        """The error of a loss that is not finite at a step (from 0) of an epoch (from 1)."""
        return cls(
            f"The loss is {loss} at step {step} (epoch {epoch}). Try a smaller lr, or"
            " precision='32'."
        )

    @classmethod
    def weights(cls, step: int) -> NonFiniteLossError:
        """The error of a weight that is not finite after a step."""
        return cls(f"A weight is not finite after step {step}. Try a smaller lr.")


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


def train_run(
    trainer_class: type[Trainer],
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    baselines: bool = False,
    progress: bool = True,
    data: ImageData | None = None,
) -> dict[str, Any]:
    """Train and evaluate; everything lands in the folder `out`.

    Args:
        trainer_class: of the framework.
        settings: of the run.
        out: folder of the run, which must not exist unless `resume`.
        resume: continue the run in `out` after its last complete epoch; on a CPU the final weights
            are bit for bit those of a run that was never interrupted.
        baselines: score raw pixels and the untrained encoder, too.
        progress: show progress bars.
        data: images loaded before; None loads `settings.data`.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: settings, data or folder do not fit; the message says what.
        NonFiniteLossError: training diverged.
    """
    folder = RunFolder.resume(out, settings) if resume else None
    if folder is None:
        RunFolder(out).check_free()
    trainer_class.check(settings)
    data = data or load_data(settings, progress)
    check_batch_size(settings.batch_size, len(data.train_images))
    if progress:
        tell(settings, data)
    trainer = trainer_class(settings, data)
    folder = folder or RunFolder.create(out, settings)
    try:
        folder.keep_image_shape(data.train_images.shape[1:])
        if baselines and not folder.baselines():
            note("scoring raw pixels and the untrained encoder", progress)
            folder.write_json(BASELINES, baseline_scores(trainer))
        trainer.fit(folder, resume=resume, progress=progress)
    except BaseException as error:
        kept = folder.checkpoint.exists()
        if not kept and not resume:
            folder.discard()  # or it would be in the way of the next try
        if isinstance(error, NonFiniteLossError):
            raise NonFiniteLossError(f"{error} {_KEPT if kept else _NOTHING_KEPT}") from error
        raise
    return finish(trainer, folder, progress)


def evaluate_run(trainer_class: type[Trainer], folder: RunFolder) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run again; rewrites metrics, embeddings and plots.

    Raises:
        ValueError: the folder holds no checkpoint.
    """
    settings = folder.settings()
    check_checkpoint(folder)
    trainer_class.check(settings)
    data = load_data(settings, progress=True)
    if data.labels is None:
        note(NO_LABELS)
    trainer = trainer_class(settings, data)
    trainer.load(folder)
    folder.keep_image_shape(data.train_images.shape[1:])
    return finish(trainer, folder, progress=True)


def load_data(settings: TrainSettings, progress: bool) -> ImageData:
    """The images that settings name."""
    return load_images(
        settings.data, image_size=settings.image_size, limit=settings.limit, seed=settings.seed,
        image_column=settings.image_column, label_column=settings.label_column, progress=progress,
    )  # fmt: skip


def tell(settings: TrainSettings, data: ImageData) -> None:
    """Say before training what it leaves out: images of a partial batch, scores without labels."""
    count, size = len(data.train_images), settings.batch_size
    note(f"training on {count} images, {count // size} steps of {size} in an epoch")
    if count % size:
        note(f"{count % size} of them, others in every epoch, are left out, as they fill no batch")
    if data.labels is None:
        note(NO_LABELS)


def finish(trainer: Trainer, folder: RunFolder, progress: bool) -> dict[str, Any]:
    """Evaluate a trained method and write metrics, embeddings and plots of the run."""
    settings, data = trainer.settings, trainer.data
    note("evaluating the encoder", progress)
    features, scores = score(trainer)
    before = folder.baselines()
    metrics = report.assemble_metrics(settings, trainer.history, scores, trainer.seconds, before)
    metrics |= data.described()
    write_atomically(folder.path / "embeddings.npz", lambda file: np.savez(file, **features))
    folder.write_json("metrics.json", metrics)
    note("drawing", progress)
    from fmicl_recipes import compare  # which is slow to import, and not for who loads an encoder

    compare.draw(folder.plots, {settings.title: metrics}, {settings.title: features})
    return metrics


def score(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features and scores of a trainer: accuracies on the encoder's features; alignment, uniformity
    and rank on the projections of two random views of test images.

    Without labels there are no accuracies.

    Raises:
        NonFiniteLossError: features are not finite.
    """
    settings, data = trainer.settings, trainer.data
    test = trainer.encode(data.test_images)
    x, y = trainer.project(data.test_images[: evaluation.PAIR_ROWS])
    check_finite_features(test, x, y)
    features, scores = {"test": test, "view_x": x, "view_y": y}, {}
    if data.labels is not None:
        labels, test_labels = data.labels
        train = trainer.encode(data.train_images)
        check_finite_features(train)
        scores |= evaluation.evaluate_features(
            train, labels, test, test_labels, k=settings.knn_k, seed=settings.seed
        )
        features["test_labels"] = test_labels
        if data.class_names is not None:
            features["class_names"] = np.array(data.class_names)
    spread = evaluation.spread(x, y)
    return features, scores | spread | {"collapsed": evaluation.collapsed(spread)}


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
                " Try a smaller lr."
            )


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
        " or a smaller lr.",
        UserWarning,
        stacklevel=2,
    )


def baseline_scores(trainer: Trainer) -> dict[str, dict[str, float]]:
    """Scores of raw pixels, which need labels, and of the untrained encoder."""
    settings, data = trainer.settings, trainer.data
    _, untrained = score(trainer)
    if data.labels is None:
        return {"random encoder": untrained}
    labels, test_labels = data.labels
    pixels, test_pixels = (
        images.reshape(len(images), -1).astype(np.float32) / 255.0
        for images in (data.train_images, data.test_images)
    )
    raw = evaluation.evaluate_features(
        pixels, labels, test_pixels, test_labels, k=settings.knn_k, seed=settings.seed
    )
    return {"raw pixels": raw, "random encoder": untrained}


def check_batch_size(batch_size: int, count: int) -> None:
    """Raise ValueError when there are fewer than `batch_size` training images."""
    if batch_size > count:
        raise invalid("batch_size", f"at most the {count} training images", batch_size)


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch's batches, (steps, batch_size), in an order drawn from (seed, epoch).

    A last partial batch is left out.
    """
    steps = count // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[: steps * batch_size].reshape(steps, batch_size)
