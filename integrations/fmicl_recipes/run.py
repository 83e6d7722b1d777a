"""The course of a run: from settings to a trained, evaluated run folder, in any framework."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.data import ImageData, load_images
from fmicl_recipes.loading import check_checkpoint
from fmicl_recipes.machines import find_process, workers_of
from fmicl_recipes.metrics import assemble_metrics
from fmicl_recipes.plots import draw_runs
from fmicl_recipes.progress import note
from fmicl_recipes.report import check_rows
from fmicl_recipes.resources import free_memory
from fmicl_recipes.run_folder import BASELINES, RunFolder
from fmicl_recipes.scores import baseline_scores, score
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stopping import Preempted, RunStopped, sigterm
from fmicl_recipes.trainer import Trainer
from fmicl_recipes.weights import Architecture, method_arrays, write_model
from fmicl_recipes.weights.networks import count_numbers
from fmicl_recipes.weights.start import starting_weights

NO_LABELS = (
    "the images have no labels, or all the same: kNN (--knn-every, too) and linear probe are left"
    " out, as are raw pixels and the colours of the embedding"
)
#: Images that are encoded at once, at the least; and bytes of a number.
FEW_IMAGES, FLOAT = 8, 4
_KEPT = "The last good checkpoint is kept."
_NOTHING_KEPT = "There was no checkpoint yet, and nothing is kept."


def train_run(
    trainer_class: type[Trainer],
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    baselines: bool = False,
    progress: bool = True,
    data: ImageData | None = None,
    pictures: bool = True,
) -> dict[str, Any]:
    """Train and evaluate; everything lands in the folder `out`.

    Args:
        trainer_class: trainer of the framework.
        settings: options of the run.
        out: folder of the run, which must not exist unless `resume`.
        resume: whether to go on with the run in `out` from its last checkpoint; on a CPU the final
            weights are bit for bit those of a run that was never interrupted.
        baselines: whether to score raw pixels and the untrained encoder, too.
        progress: whether to show progress bars and notes.
        data: images loaded before; None loads `settings.data`.
        pictures: whether to draw the run's pictures.

    Returns:
        The contents of metrics.json; in all but the first of several processes nothing.

    Raises:
        ValueError: settings, data or folder do not fit; the message says what.
        RunStopped: training diverged, or was asked to stop by SIGTERM, or a checkpoint could not be
            written, or another process ended; the message says which, and what is kept.
    """
    process = find_process(settings)
    first = process.index == 0
    progress = progress and first
    folder = RunFolder.resume(out, settings) if resume else None
    if folder is None and first:
        RunFolder(out).check_free()
    trainer_class.join(settings)
    trainer_class.check(settings)
    data = data or load_data(settings, progress)
    check_batch_size(settings.batch_size, len(data.train_images))
    if folder is not None:
        check_networks(folder, settings, data)
    trainer = trainer_class(settings, data)
    settings = trainer.settings
    start = None
    if settings.init is not None and not (folder is not None and folder.checkpoint.exists()):
        start = starting_weights(trainer, settings.init)
    if progress:
        tell(settings, data)
        if folder is not None:
            tell_trained(len(folder.read_history()), settings)
    if not first:  # which the first process makes, writes and evaluates
        if start is not None:
            trainer.set_weights(start.weights)
        with sigterm() as trainer.stop:
            trainer.fit(folder or RunFolder(out), resume=resume, progress=False)
        return {}
    folder = folder or RunFolder.create(out, settings)
    try:
        keep_images(folder, data)
        if baselines and not folder.baselines():
            note("scoring raw pixels and the untrained encoder", progress)
            folder.write_json(BASELINES, baseline_scores(trainer))
        if start is not None:
            note(start.told, progress)
            trainer.set_weights(start.weights)
        with sigterm() as trainer.stop:
            trainer.fit(folder, resume=resume, progress=progress)
    except BaseException as error:
        kept = folder.checkpoint.exists()
        if not kept and not resume:
            folder.discard()  # or it would be in the way of the next try
        if isinstance(error, RunStopped) and not isinstance(error, Preempted):
            raise type(error)(f"{error} {_KEPT if kept else _NOTHING_KEPT}") from error
        raise
    return finish(trainer, folder, progress, pictures)


def evaluate_run(trainer_class: type[Trainer], folder: RunFolder) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run again; rewrites metrics, embeddings and plots.

    Args:
        trainer_class: trainer of the run's framework.
        folder: folder of the run.

    Returns:
        The contents of metrics.json.

    Raises:
        ValueError: the folder holds no checkpoint.
    """
    settings = folder.settings()
    check_checkpoint(folder)
    trainer_class.check(settings)
    data = load_data(settings, progress=True)
    if data.labels is None:
        note(NO_LABELS)
    check_batch_size(settings.batch_size, len(data.train_images))
    check_networks(folder, settings, data)
    trainer = trainer_class(settings, data)
    trainer.load(folder)
    keep_images(folder, data)
    if len(trainer.history) < settings.epochs:
        tell_trained(len(trainer.history), settings)
    return finish(trainer, folder, progress=True)


def keep_images(folder: RunFolder, data: ImageData) -> None:
    """Keep in the run's folder what its images are, and warn where they were others before."""
    if not folder.keep_images(data.train_images.shape[1:], data.digest):
        warnings.warn(
            f"The images of {data.name} are not those that the run began with, or are decoded in"
            " another way. Some of those held out now may have been trained on.",
            UserWarning,
            stacklevel=2,
        )


def load_data(settings: TrainSettings, progress: bool) -> ImageData:
    """The images that settings name."""
    return load_images(
        settings.data, image_size=settings.image_size, limit=settings.limit, seed=settings.seed,
        image_column=settings.image_column, label_column=settings.label_column, progress=progress,
        cache=settings.cache, workers=workers_of(settings), skip_corrupt=settings.skip_corrupt,
    )  # fmt: skip


def tell(settings: TrainSettings, data: ImageData) -> None:
    """Say before training what it trains and is evaluated on, and what is left out."""
    count, size = len(data.train_images), settings.batch_size
    note(
        f"training on {count} images, {count // size} steps of {size} in an epoch; evaluation on"
        f" {data.evaluated_on}, {len(data.test_images)} images"
    )
    if count % size:
        note(f"{count % size} of them, others in every epoch, are left out, as they fill no batch")
    if settings.augmentation == "photo" and data.train_images.shape[3] != 3:
        note("the images have no colour: hue, saturation and grey scale of the views are left out")
    if settings.supervised:
        note("the labels of the training images say which of them belong together")
    if data.labels is None:
        note(NO_LABELS)


def tell_trained(done: int, settings: TrainSettings) -> None:
    """Say how far a run is that was begun before."""
    note(f"the run has trained for {done} of {settings.epochs} epochs")


def finish(
    trainer: Trainer, folder: RunFolder, progress: bool, pictures: bool = True
) -> dict[str, Any]:
    """Evaluate a trained method and write metrics, embeddings and plots of the run."""
    settings, data = trainer.settings, trainer.data
    note("evaluating the encoder", progress)
    features, scores = score(trainer)
    before = folder.baselines()
    check_rows(before)
    metrics = assemble_metrics(settings, trainer.history, scores, trainer.seconds, before)
    metrics |= data.described()
    folder.write_arrays("embeddings.npz", features)
    trained = {"epochs": len(trainer.history), "seconds": trainer.seconds}
    write_model(folder, settings, data.train_images.shape[1:], trainer.weights(), trained)
    folder.write_json("metrics.json", metrics)
    if pictures:
        note("drawing", progress)
        draw_runs(folder.plots, {settings.title: metrics}, {settings.title: features})
    return metrics


def check_networks(folder: RunFolder, settings: TrainSettings, data: ImageData) -> None:
    """Check that the networks of a run, whose settings may be a stranger's, can be made.

    Raises:
        ValueError: its checkpoint or, where there is none, the memory is far too small for them; or
            the memory for a few images.
    """
    _, height, width, channels = data.train_images.shape
    architecture, free = Architecture.of(settings, channels), free_memory()
    images = FEW_IMAGES * height * width * channels * FLOAT
    if images > free:
        raise invalid("run", f"a run of whose images {FEW_IMAGES} fit in memory, {free} bytes",
                      (height, width, channels), what="image_shape")  # fmt: skip
    if not architecture.ours:  # of the others only the library knows, by whose name they are made
        return
    numbers = count_numbers(method_arrays(settings, architecture))
    if folder.checkpoint.exists():
        folder.check_size(numbers)
    elif FLOAT * numbers > free:
        raise invalid("run", f"a run whose networks fit in memory, {free} bytes", FLOAT * numbers,
                      what="bytes of the networks")  # fmt: skip


def check_batch_size(batch_size: int, count: int) -> None:
    """Check that the training images, `count` of them, fill a batch.

    Raises:
        ValueError: they do not.
    """
    if batch_size > count:
        raise invalid("batch_size", f"at most the {count} training images", batch_size)
