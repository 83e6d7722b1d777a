"""Runs on texts: what training, evaluation and the search for alpha do with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmicl_cli import console
from fmicl_cli.kinds import Kind, Trial
from fmicl_recipes.text import METHODS, TEXT_PRESETS, TextSettings, resolve_text

#: Loggers of libraries, and the variables that set their levels.
LIBRARIES = {"transformers": "TRANSFORMERS_VERBOSITY", "datasets": "DATASETS_VERBOSITY"}


def name(settings: TextSettings) -> str:
    """The name of a run's folder."""
    return f"{Path(settings.data).stem}-{settings.loss_title}-seed{settings.seed}"


def train(
    settings: TextSettings, out: Path, *, resume: bool, baselines: bool, pictures: bool = True
) -> dict[str, Any]:
    """Train and evaluate, and draw pictures if asked; the metrics."""
    with quiet():
        from fmicl_sentence_transformers.train import train_simcse

        return train_simcse(settings, out, resume=resume, baselines=baselines, pictures=pictures)


def evaluate(run: Path) -> dict[str, Any]:
    """Evaluate a run's encoder again; the metrics."""
    from fmicl_recipes.run_folder import RunFolder

    folder = RunFolder(run, TextSettings)
    folder.settings()
    with quiet():
        from fmicl_sentence_transformers.train import evaluate_run

        return evaluate_run(folder)


def trials(settings: TextSettings) -> Trial:
    """What trains a run, scores it on STS-B's development pairs and keeps no encoder."""

    def trial(settings: Any, folder: Path, resume: bool) -> dict[str, Any]:
        with quiet():
            from fmicl_sentence_transformers.train import train_simcse

            metrics = train_simcse(settings, folder, resume=resume, splits=("dev",), pictures=False)
        for part in ("model", "checkpoints"):
            shutil.rmtree(folder / part)
        return metrics

    return trial


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from printing advice and progress bars while the block runs."""
    with console.quiet(LIBRARIES):
        import datasets

        wish = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS  # the user's, or None
        if wish is not None or datasets.are_progress_bars_disabled():
            yield
            return
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            datasets.enable_progress_bars()


TEXTS = Kind(
    methods=METHODS,
    settings=TextSettings,
    presets=TEXT_PRESETS,
    resolve=resolve_text,
    name=name,
    train=train,
    evaluate=evaluate,
    trials=trials,
    about="Train a sentence encoder, then evaluate it by Spearman correlation on STS12-16 and "
    "STS-B.\n\n"
    "With single sentences each is its own positive under another dropout mask (unsupervised "
    "SimCSE); with pairs, the second column is, and further columns are hard negatives. The "
    "encoder in OUT/model loads with SentenceTransformer(path). The defaults are the paper's text "
    "setting.",
    searching="Double alpha while the Spearman correlation on STS-B's development pairs improves.",
    examples={
        "simcse": (
            "--model bert-base-uncased --data wiki1m --preset paper-wikipedia",
            "--model PATH/TO/ENCODER --data texts.txt --sts sts.csv --out runs/kl",
            "--model PATH/TO/ENCODER --data pairs.csv --pairs given --divergence js",
            "--out runs/kl --resume",
        )
    },
    search_example="--model PATH/TO/ENCODER --data sts.parquet --out sweeps/sts-kl",
    files="model/, metrics.json, history.csv, checkpoints/, plots/",
    rewritten="metrics.json",
    measure="stsb_dev",
    score="Spearman, STS-B dev",
    start=1024.0,
)
