"""SimCSE (Gao et al. 2021) with any contrastive loss: from settings to an evaluated run folder."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes.draws import step_seed
from fmicl_recipes.metrics import assemble_metrics
from fmicl_recipes.plots import draw_runs
from fmicl_recipes.report import check_rows
from fmicl_recipes.run_folder import RunFolder, unreadable_checkpoint
from fmicl_recipes.stopping import NonFiniteLossError
from fmicl_recipes.text import TextSettings
from fmicl_recipes.text.data import normalised, sts_rows, training_columns
from fmicl_sentence_transformers.cached import CachedFMICLLoss
from fmicl_sentence_transformers.evaluate import sts_scores
from fmicl_sentence_transformers.guards import check_checkpoint, check_encoder
from fmicl_sentence_transformers.loss import FMICLLoss
from fmicl_sentence_transformers.models import load_model

#: Points of the loss curve in metrics.json; history.csv has every step.
CURVE_POINTS = 100


def build_loss(settings: TextSettings, model: SentenceTransformer) -> nn.Module:
    """The loss that the settings name; the trainer itself watches for NaN."""
    cached = settings.mini_batch_size is not None
    parts: dict[str, Any] = {"mini_batch_size": settings.mini_batch_size} if cached else {}
    if settings.loss == "info-nce":
        kind = CachedMultipleNegativesRankingLoss if cached else MultipleNegativesRankingLoss
        return kind(model, scale=1.0 / settings.temperature, **parts)
    o = settings.objective()
    return (CachedFMICLLoss if cached else FMICLLoss)(
        model, divergence=o.divergence, similarity=o.similarity, alpha=o.alpha,
        strength=o.strength, negatives=o.negatives, normalize=o.normalize, check_finite=False,
        **parts,
    )  # fmt: skip


def train_simcse(
    settings: TextSettings,
    out: str | Path,
    *,
    resume: bool = False,
    baselines: bool = False,
    progress: bool = True,
    splits: tuple[str, ...] = ("test", "dev"),
    pictures: bool = True,
) -> dict[str, Any]:
    """Train an encoder and evaluate it; everything lands in the folder `out`.

    Args:
        settings: settings of the run.
        out: folder of the run, which must not exist unless `resume`.
        resume: whether the run in `out` is continued after its last checkpoint; on a CPU the final
            weights are bit for bit those of a run that was never interrupted.
        baselines: whether the encoder is scored before training, too.
        progress: whether progress bars are shown.
        splits: splits of the STS rows to evaluate on.
        pictures: whether to draw the plots of the run.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: settings, data, model or folder do not fit; the message says what.
        NonFiniteLossError: training diverged.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if settings.device == "gpu" and not torch.cuda.is_available():
        raise invalid("device", "a device that torch sees", settings.device)
    folder = RunFolder.resume(out, settings) if resume else None
    last = None if folder is None else last_checkpoint(folder)
    if folder is not None:  # whose settings may be a stranger's
        if last is not None:
            check_checkpoint(Path(last), settings.batch_size)
        if Path(settings.model).expanduser().is_dir():
            check_encoder(Path(settings.model).expanduser(), pickles=True)
    columns, rows = training_columns(settings), sts_rows(settings)
    model = load_model(settings)
    folder = folder or RunFolder.create(out, settings)
    seen = seen_texts(columns)
    options: dict[str, Any] = {"limit": settings.sts_limit, "splits": splits, "progress": progress}
    before = {"before training": sts_scores(model, rows, seen, **options)} if baselines else {}

    run = Run(folder, settings.title, settings.seed, progress)
    trainer = Trainer(run, model=model, args=arguments(settings, folder),
                      train_dataset=Dataset.from_dict(columns), loss=build_loss(settings, model),
                      callbacks=[run])  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=last)
    except (InvalidArgument, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the libraries say of a damaged checkpoint
        pickled = isinstance(error, pickle.UnpicklingError)  # refused, as by `weights_only`
        if last is None or (run.begun and not pickled):
            raise
        raise unreadable_checkpoint(last) from error

    scores = sts_scores(model, rows, seen, **options)
    save_model(model, folder)
    folder.write_history(run.history)
    return finish(settings, folder, scores, before, pictures)


def finish(
    settings: TextSettings,
    folder: RunFolder,
    scores: dict[str, Any],
    before: dict[str, dict[str, float]],
    pictures: bool = True,
) -> dict[str, Any]:
    """Write metrics.json and the plots of a run whose history is written; its metrics."""
    history = folder.read_history()
    if not history or "seconds" not in history[-1]:
        raise invalid("run", "a run folder with a history.csv of its steps", str(folder.path))
    seconds = history[-1]["seconds"]
    metrics = assemble_metrics(settings, _curve(history), scores, seconds, before)
    metrics |= {"framework": "torch", "model": settings.model, "pairs": settings.pairs}
    folder.write_json("metrics.json", metrics)
    if pictures:
        draw_runs(folder.plots, {settings.title: metrics}, {})
    return metrics


def evaluate_run(folder: RunFolder) -> dict[str, Any]:
    """Evaluate the encoder of a finished run again; rewrites metrics.json.

    Raises:
        ValueError: the folder holds no finished run, or model or data cannot be read.
    """
    settings = folder.settings()
    folder.read_json("metrics.json")
    before = folder.baselines()
    check_rows(before)
    check_encoder(folder.path / "model")
    columns, rows = training_columns(settings), sts_rows(settings)
    model = load_model(settings, folder.path / "model")
    scores = sts_scores(model, rows, seen_texts(columns), limit=settings.sts_limit)
    return finish(settings, folder, scores, before)


def seen_texts(columns: dict[str, list[str]]) -> set[str]:
    """The training texts, normalised."""
    return {text for column in columns.values() for text in normalised(column)}


def arguments(settings: TextSettings, folder: RunFolder) -> SentenceTransformerTrainingArguments:
    """The settings of a run as the library wants them: AdamW with a linear decay, no reports."""
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder.path / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        bf16=settings.precision == "bf16",
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        dataloader_drop_last=True,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class Run(TrainerCallback):
    """Keeps the history of a run, its clock, its random draws and its one progress bar."""

    def __init__(self, folder: RunFolder, title: str, seed: int, progress: bool) -> None:
        self.folder, self.title, self.seed, self.progress = folder, title, seed, progress
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.loss = float("nan")
        #: The alpha that the loss of the step found, by its name in the history, if it finds one.
        self.found: dict[str, float] = {}
        #: Whether a step was begun, and so all is read from a checkpoint.
        self.begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Cut history and clock back to the step of the weights."""
        rows = self.folder.read_history() if state.global_step else []
        self.history = rows[: state.global_step]
        self.before = self.history[-1]["seconds"] if self.history else 0.0
        self.start = time.perf_counter()
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title,
                        unit="step", disable=not self.progress)  # fmt: skip

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw this step's dropout from (seed, step) alone."""
        self.begun = True
        torch.manual_seed(step_seed(self.seed, state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add a row to the history; its file is never behind the checkpoint to come."""
        self.seconds = self.before + time.perf_counter() - self.start
        self.history.append({"epoch": state.epoch, "step": state.global_step, "loss": self.loss,
                             **self.found, "seconds": round(self.seconds, 3)})  # fmt: skip
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update()
        if control.should_save:
            self.folder.write_history(self.history)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Trainer(SentenceTransformerTrainer):
    """The library's trainer, with loss and found alpha of every step handed to the run."""

    def __init__(self, run: Run, **options: Any) -> None:
        self.run = run
        super().__init__(**options)

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        """The loss; refuses one that is not finite."""
        result = super().compute_loss(*arguments, **options)
        loss = result[0] if isinstance(result, tuple) else result
        self.run.loss = loss.item()
        if not np.isfinite(self.run.loss):
            epoch = int(self.state.epoch or 0) + 1
            raise NonFiniteLossError.at(self.run.loss, self.state.global_step, epoch)
        used = self.loss.used_alpha if isinstance(self.loss, FMICLLoss) else None
        if used is not None and self.loss.finds_alpha:
            self.run.found = {"alpha": used.item()}
        return result


def last_checkpoint(folder: RunFolder) -> str | None:
    """The path of the last complete checkpoint; one that a kill left half-written is removed."""
    numbered = {
        int(path.name.partition("-")[2]): path
        for path in (folder.path / "checkpoints").glob("checkpoint-*")
        if path.is_dir() and re.fullmatch(r"checkpoint-[0-9]{1,18}", path.name)
    }
    found = [numbered[step] for step in sorted(numbered)]
    for path in reversed(found):
        try:  # the library writes this file last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def save_model(model: SentenceTransformer, folder: RunFolder) -> Path:
    """Write the encoder, ready for SentenceTransformer(path), whole or not at all."""
    target, fresh = folder.path / "model", folder.path / ".model"
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(str(fresh))
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The mean losses of at most `CURVE_POINTS` parts of the history, equally long."""
    parts = np.array_split([row["loss"] for row in history], min(CURVE_POINTS, len(history)))
    return [{"loss": float(part.mean())} for part in parts]
