"""One run in one sitting: trained for as long as it may, then measured."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_train import images
from benchmarks.gpu_train.deadline import Deadline
from benchmarks.gpu_train.profile import profiled
from benchmarks.gpu_train.runs import SCORES
from benchmarks.timing import Row
from fmicl_recipes.evaluation import knn_accuracy, linear_accuracy, neighbours_among
from fmicl_recipes.history import check_finite_features
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import PAIR_ROWS, spread
from fmicl_recipes.trainer import Trainer

Tell = Callable[[Row], None]
#: Epochs at the start of a sitting that say nothing of the time of an epoch.
WARM_UP = 2


def train(trainer_class: type[Trainer], job: dict[str, Any], tell: Tell) -> None:
    """Train and measure; every number is told as soon as it is known.

    Args:
        trainer_class: trainer of the library.
        job: `settings`, `folder` of the run, file `data` of the images, moments `stop` of the
            training and `end` of the measuring, and file `profile` for a profile or None.
        tell: function that takes columns of the run's row.
    """
    begun = time.monotonic()
    settings = TrainSettings.from_dict(job["settings"])
    data, path = images.read(Path(job["data"])), Path(job["folder"])
    trainer = trainer_class(settings, data)
    if (path / "settings.json").exists():
        folder = RunFolder.resume(path, settings)
    else:
        folder = RunFolder.create(path, settings)
        folder.keep_images(data.train_images.shape[1:])
    before, ready = len(folder.read_history()), time.monotonic()
    with Deadline(job["stop"]) as training, profiled(settings.framework, before, job["profile"]):
        trainer.fit(folder, resume=True, progress=False)
    fit_s = time.monotonic() - ready
    if not folder.checkpoint.exists():
        tell({"epochs_done": 0, "fit_s": fit_s, "start_s": ready - begun,
              "note": f"no epoch was complete after {fit_s:.0f} s of training"})  # fmt: skip
        return
    if training.passed:
        trainer.load(folder)
    seen = len(data.train_images) // settings.batch_size * settings.batch_size
    row = pace(trainer.history, before, seen) | {"fit_s": fit_s, "train_s": trainer.seconds}
    first = row.pop("first_s", 0.0)
    tell(row | {"start_s": ready - begun + first} | peak_memory())
    measure(trainer, job["end"], tell, folder)


def pace(history: Sequence[dict[str, float]], before: int, seen: int) -> Row:
    """How far a run is, and how fast.

    Args:
        history: rows of the run's history.
        before: number of epochs that earlier sittings trained.
        seen: number of images in an epoch.

    Returns:
        Columns of the row; also "first_s", by how much the first epoch took longer, as it compiles.
    """
    row: Row = {"epochs_done": len(history), "epochs_now": len(history) - before,
                "last_loss": history[-1]["loss"]}  # fmt: skip
    seconds = [seen / epoch["images_per_second"] for epoch in history]
    now = seconds[before:]
    usual = now[WARM_UP:] or seconds[WARM_UP:] or now[1:] or seconds
    row["epoch_s"] = statistics.median(usual)
    row["images_per_second"] = seen / row["epoch_s"]
    if now:
        row["first_s"] = max(0.0, now[0] - row["epoch_s"])
    return row


def measure(trainer: Trainer, end: float, tell: Tell, folder: RunFolder) -> None:
    """Tell scores until a moment; what there was no time for is said in a note."""
    start, missing = time.monotonic(), ["knn_accuracy", "linear_accuracy", "alignment"]
    told: Row = {}
    with Deadline(end) as evaluation:
        for part in scores(trainer):
            tell(part)
            told |= part
            missing = [name for name in missing if name not in part]
    if evaluation.passed:
        told["note"] = f"no time was left for {', '.join(missing)}"
    tell({"evaluation_s": time.monotonic() - start} | {k: told[k] for k in told if k == "note"})
    if not evaluation.passed and len(trainer.history) >= trainer.settings.epochs:
        folder.write_json(SCORES, told)


def scores(trainer: Trainer) -> Iterator[Row]:
    """Scores of a trainer, what tells most first; accuracies only where there are labels."""
    data = trainer.data
    test = trainer.encode(data.test_images)
    check_finite_features(test)
    if data.labels is not None:
        labels, test_labels = data.labels
        train = trainer.encode(data.train_images)
        check_finite_features(train)
        k = neighbours_among(trainer.settings.knn_k, len(train))
        yield {"knn_k": k, "knn_accuracy": knn_accuracy(train, labels, test, test_labels, k=k)}
        yield {"linear_accuracy": linear_accuracy(train, labels, test, test_labels)}
    views = trainer.project(data.test_images[:PAIR_ROWS])
    check_finite_features(*views)
    yield spread(*views)


def peak_memory() -> Row:
    """Most memory that the GPU had allocated; nothing on a CPU."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    if jax and (stats := jax.local_devices()[0].memory_stats()):
        return {"peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30}
    return {}
