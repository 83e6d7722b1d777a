"""TextSettings: everything that determines a run on sentences, and presets for it.

The defaults are the paper's text row, but for alpha, which is found from every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from fmicl_core.checks import check_number, check_positive
from fmicl_core.objective import AUTO, DEFAULTS
from fmicl_recipes.checks import at_least, check_text
from fmicl_recipes.options import option, preset_options
from fmicl_recipes.shared_settings import SharedSettings

#: Training methods, with a line each.
METHODS = {"simcse": "SimCSE: sentence embeddings, with options of their own."}
LOSSES = ("fmicl", "info-nce")
PAIRS = ("dropout", "given")
POOLINGS = ("model", "cls", "mean")


class TextDefaults(NamedTuple):
    """Defaults of the loss on sentences: the paper's text row, but for alpha and negative pairs."""

    divergence: str = DEFAULTS.divergence
    sigma2: float = 0.025  # 1/(2 sigma^2) = 20
    alpha: float | str = AUTO  # the paper's 409600 fits encoders that do not spread sentences yet
    negatives: str = "cross"  # as MultipleNegativesRankingLoss; the paper prints "anchor"
    temperature: float = 0.05  # the scale of 20 of MultipleNegativesRankingLoss, and SimCSE's


#: Defaults that differ from those of images.
TEXT_DEFAULTS = TextDefaults()


_shared = SharedSettings.changed


@dataclass(frozen=True)
class TextSettings(SharedSettings):
    """Settings of one run on sentences; frozen, validated, and stored with the run.

    Raises:
        ValueError: an option is unknown or out of range; the message names it.
    """

    method: str = option("simcse", "Training method.", "Task", METHODS)
    model: str = option(
        "bert-base-uncased",
        "Encoder to start from: a folder of sentence-transformers or transformers, or a hub name.",
        "Task",
        check_text,
    )
    data: str = option(
        "wiki1m",
        "Training texts: a .txt file with a sentence a line; a .parquet, .csv, .tsv or .jsonl file "
        "with a column text or sentence, or with columns anchor, positive, negative..., or "
        "sentence1, sentence2, score; or wiki1m or nli, SimCSE's sets on the hub.",
        "Data",
        check_text,
    )
    pairs: str = option(
        "dropout",
        "dropout: every sentence twice, as unsupervised SimCSE; given: the columns of the data.",
        "Data",
        PAIRS,
    )
    min_score: float = option(
        4.0, "With given pairs that have a score: the least score that makes a pair.", "Data",
        check_number, only=({"pairs": ("given",)},),
    )  # fmt: skip
    limit: int | None = _shared("limit", help="Use at most this many training rows.")
    sts: str | None = option(
        None,
        "STS rows to evaluate on: a .parquet, .csv or .jsonl file with columns task, split, "
        "sentence1, sentence2, score. Without it: --data if it has these, else the hub.",
        "Data",
        check_text,
    )
    sts_limit: int | None = option(
        None, "Use at most this many test pairs of a task.", "Data", at_least(2)
    )

    loss: str = option("fmicl", "Loss; info-nce is MultipleNegativesRankingLoss.", "Loss", LOSSES)
    divergence: str = _shared("divergence", default=TEXT_DEFAULTS.divergence)
    sigma2: float = _shared(
        "sigma2",
        default=TEXT_DEFAULTS.sigma2,
        help="Variance of the Gaussian similarity; 0.025 is 1/(2s^2) = 20.",
    )
    temperature: float = _shared("temperature", default=TEXT_DEFAULTS.temperature)
    alpha: float | str = _shared("alpha", default=TEXT_DEFAULTS.alpha)
    negatives: str = _shared("negatives", default=TEXT_DEFAULTS.negatives)
    mini_batch_size: int | None = option(
        None, "Texts embedded at a time, by gradient caching; for batches beyond memory.", "Loss",
        at_least(2),
    )  # fmt: skip

    pooling: str = option(
        "model",
        "Sentence embedding: as the model says (mean, for a plain encoder), cls or mean.",
        "Model",
        POOLINGS,
    )
    max_length: int = option(32, "Tokens of a text that are read.", "Model", at_least(1))

    lr: float = _shared("lr", default=3e-5)
    weight_decay: float = _shared("weight_decay", default=0.0, help="Weight decay of AdamW.")
    batch_size: int = _shared("batch_size", default=64)
    epochs: int = _shared("epochs", default=1, help="Passes over the training texts.")
    seed: int = _shared("seed", help="Seed of order and dropout.")
    warmup_steps: int = option(
        0, "Steps of linear warm-up before the linear decay.", "Training", at_least(0)
    )
    max_grad_norm: float = option(
        1.0, "Gradients are cut to this length.", "Training", check_positive
    )
    save_steps: int = option(500, "Steps between checkpoints.", "Training", at_least(1))

    def __post_init__(self) -> None:
        self.check_each()
        self.check_effects()
        if self.loss == "fmicl":
            self.objective()


#: Options of texts that go together, by name.
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
    return TextSettings.from_preset(preset_options(preset, TEXT_PRESETS), overrides)
