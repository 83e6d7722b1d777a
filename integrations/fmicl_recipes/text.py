"""TextSettings: all that determines a run on sentences; its defaults are the paper's text row."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from fmicl_core.checks import check_at_least, check_number, check_positive, invalid
from fmicl_core.objective import DEFAULTS
from fmicl_recipes.options import Settings, check_seed, combined, option, recipe
from fmicl_recipes.settings import TrainSettings

METHODS = ("simcse",)
LOSSES = ("fmicl", "info-nce")
PAIRS = ("dropout", "given")
POOLINGS = ("model", "cls", "mean")


class TextDefaults(NamedTuple):
    """Defaults of the loss on sentences: the paper's text row, and the pairs of the usual loss."""

    divergence: str = DEFAULTS.divergence
    sigma2: float = 0.025  # 1/(2 sigma^2) = 20
    alpha: float = 409600.0
    negatives: str = "cross"  # as MultipleNegativesRankingLoss; the paper prints "anchor"
    temperature: float = 0.05  # the scale of 20 of MultipleNegativesRankingLoss, and SimCSE's


TEXT_DEFAULTS = TextDefaults()


def _same(name: str, default: Any = dataclasses.MISSING, help: str | None = None) -> Any:
    """The option of that name of the image trainers, with another default or help if given."""
    field = TrainSettings.__dataclass_fields__[name]
    value = field.default if default is dataclasses.MISSING else default
    return option(value, **(dict(field.metadata) | ({} if help is None else {"help": help})))


@dataclass(frozen=True)
class TextSettings(Settings):
    """Settings of one run on sentences; frozen, validated, and stored with the run.

    Raises:
        ValueError: an option is unknown or out of range; the message names it.
    """

    method: str = option("simcse", "Training method.", "Task", METHODS)
    model: str = option(
        "bert-base-uncased",
        "Encoder to start from: a folder of sentence-transformers or transformers, or a hub name.",
        "Task",
    )
    data: str = option(
        "wiki1m",
        "Training texts: a .txt file with a sentence a line; a .parquet, .csv, .tsv or .jsonl file "
        "with a column text or sentence, or with columns anchor, positive, negative..., or "
        "sentence1, sentence2, score; or wiki1m or nli, SimCSE's sets on the hub.",
        "Task",
    )
    pairs: str = option(
        "dropout",
        "dropout: every sentence twice, as unsupervised SimCSE; given: the columns of the data.",
        "Task",
        PAIRS,
    )
    min_score: float = option(
        4.0, "With given pairs that have a score: the least score that makes a pair.", "Task",
        only=({"pairs": ("given",)},),
    )  # fmt: skip
    limit: int | None = option(None, "Use at most this many training rows.", "Task")
    sts: str | None = option(
        None,
        "STS rows to evaluate on: a .parquet, .csv or .jsonl file with columns task, split, "
        "sentence1, sentence2, score. Without it: --data if it has these, else the hub.",
        "Task",
    )
    sts_limit: int | None = option(None, "Use at most this many test pairs of a task.", "Task")

    loss: str = option("fmicl", "Loss; info-nce is MultipleNegativesRankingLoss.", "Loss", LOSSES)
    divergence: str = _same("divergence", TEXT_DEFAULTS.divergence)
    order: float = _same("order")
    similarity: str = _same("similarity")
    sigma2: float = _same(
        "sigma2",
        TEXT_DEFAULTS.sigma2,
        "Variance of the Gaussian similarity; 0.025 is 1/(2s^2) = 20.",
    )
    mu: float = _same("mu")
    scale: float = _same("scale")
    temperature: float = _same("temperature", TEXT_DEFAULTS.temperature)
    alpha: float = _same("alpha", TEXT_DEFAULTS.alpha)
    negatives: str = _same("negatives", TEXT_DEFAULTS.negatives)
    mini_batch_size: int | None = option(
        None, "Texts embedded at a time, by gradient caching; for batches beyond memory.", "Loss"
    )

    pooling: str = option(
        "model",
        "Sentence embedding: as the model says (mean, for a plain encoder), cls or mean.",
        "Model",
        POOLINGS,
    )
    max_length: int = option(32, "Tokens of a text that are read.", "Model")

    lr: float = _same("lr", 3e-5)
    weight_decay: float = option(0.0, "Weight decay of AdamW.", "Training")
    warmup_steps: int = option(0, "Steps of linear warm-up before the linear decay.", "Training")
    max_grad_norm: float = option(1.0, "Gradients are cut to this length.", "Training")
    batch_size: int = _same("batch_size", 64)
    epochs: int = option(1, "Passes over the training texts.", "Training")
    seed: int = option(0, "Seed of order and dropout.", "Training")
    precision: str = _same("precision")
    device: str = _same("device")
    save_steps: int = option(500, "Steps between checkpoints.", "Training")

    def __post_init__(self) -> None:
        self.check_choices()
        self.check_effects()
        for name in ("max_length", "epochs", "save_steps"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("warmup_steps", self.warmup_steps, 0)
        check_seed(self.seed)
        check_at_least("batch_size", self.batch_size, 2)
        for name in ("limit", "sts_limit", "mini_batch_size"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 2)
        for name in ("lr", "temperature", "alpha", "max_grad_norm"):
            check_positive(name, getattr(self, name))
        check_number("min_score", self.min_score)
        if check_number("weight_decay", self.weight_decay) < 0:
            raise invalid("weight_decay", "a finite number >= 0", self.weight_decay)
        if self.loss == "fmicl":
            self.objective()


TEXT_PRESETS: dict[str, dict[str, Any]] = {
    # Lu et al. (2023), setup table: data, encoder, N, lr, mu, 1/(2 sigma^2), alpha and epochs are
    # the paper's, pooling and length SimCSE's. The layer that SimCSE puts over [CLS] while training
    # is not here.
    "paper-wikipedia": {"data": "wiki1m", "model": "bert-base-uncased", "batch_size": 64,
                        "lr": 3e-5, "mu": 1.0, "sigma2": 0.025, "alpha": 409600.0, "epochs": 1,
                        "max_length": 32, "pooling": "cls", "negatives": "anchor"},
    # SimCSE's supervised setting (Gao et al. 2021, appendix A), with the paper's loss.
    "simcse-nli": {"data": "nli", "model": "bert-base-uncased", "pairs": "given", "batch_size": 512,
                   "lr": 5e-5, "epochs": 3, "max_length": 32, "pooling": "cls"},
}  # fmt: skip


def resolve_text(preset: str | None, overrides: dict[str, Any]) -> TextSettings:
    """Settings from explicit options, then the preset, then the defaults.

    Raises:
        ValueError: a name is unknown (the message lists the names) or a value does not fit.
    """
    options = combined(recipe(preset, TEXT_PRESETS), overrides)
    return TextSettings.from_dict(options, optional=options.keys() - overrides.keys())
