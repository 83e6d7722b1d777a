"""Runs on images: what training, evaluation and the search for alpha do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmicl_cli.frameworks import check_early, trainer_of
from fmicl_cli.kinds import Kind, Trial
from fmicl_recipes.choices import METHODS
from fmicl_recipes.machines import find_process
from fmicl_recipes.presets import PRESETS, resolve
from fmicl_recipes.settings import TrainSettings


def name(settings: TrainSettings) -> str:
    """The name of a run's folder."""
    return (
        f"{Path(settings.data).name}-{settings.method}-{settings.framework}"
        f"-{settings.loss_title}-seed{settings.seed}"
    )


def train(
    settings: TrainSettings, out: Path, *, resume: bool, baselines: bool, pictures: bool = True
) -> dict[str, Any]:
    """Train and evaluate, and draw pictures if asked; the metrics."""
    trainer = trainer_of(settings)
    from fmicl_recipes.run import train_run

    return train_run(trainer, settings, out, resume=resume, baselines=baselines, pictures=pictures)


def evaluate(run: Path) -> dict[str, Any]:
    """Evaluate a run's last checkpoint again; the metrics."""
    from fmicl_recipes.run_folder import RunFolder

    folder = RunFolder(run)
    settings = folder.settings()
    check_early(settings)
    trainer = trainer_of(settings)
    from fmicl_recipes.run import evaluate_run

    return evaluate_run(trainer, folder)


def trials(settings: TrainSettings) -> Trial:
    """What trains on four fifths of the training images, and scores on the others."""
    from fmicl_recipes.data import validation_split
    from fmicl_recipes.run import load_data, train_run
    from fmicl_recipes.sweep import check_labels

    trainer = trainer_of(settings)
    data = validation_split(load_data(settings, progress=True))
    check_labels(data)

    def trial(settings: Any, folder: Path, resume: bool) -> dict[str, Any]:
        return train_run(trainer, settings, folder, resume=resume, data=data, pictures=False)

    return trial


IMAGES = Kind(
    methods=METHODS,
    settings=TrainSettings,
    presets=PRESETS,
    resolve=resolve,
    name=name,
    check=check_early,
    follows=lambda settings: find_process(settings).index > 0,
    train=train,
    evaluate=evaluate,
    trials=trials,
    about="Train an encoder of images without labels, then evaluate it.\n\n"
    "Where the images have labels, they serve to score the encoder by kNN and linear probe.",
    searching="Double alpha while the kNN accuracy on held-out training images improves.\n\n"
    "A fifth of the training images is held out, and the test images are not looked at.",
    examples={
        "simclr": (
            "--data digits --divergence js --out runs/js",
            "--data PATH/TO/IMAGES --image-size 64 --epochs 100   # labels or not",
            "--out runs/js --resume",
        ),
        "moco": (
            "--data digits",
            "--data cifar10 --loss info-nce --temperature 0.2 --head-norm none --framework jax",
        ),
        "moco-v3": ("--data digits", "--data PATH/TO/IMAGES --image-size 64 --encoder vit-s6"),
    },
    search_example="--data digits --divergence js --out sweeps/digits-js",
    files="metrics.json, history.csv, checkpoint, plots/",
    rewritten="metrics.json, embeddings.npz, plots/",
    measure="knn_accuracy",
    score="kNN accuracy, held-out images",
    start=1.0,
)
