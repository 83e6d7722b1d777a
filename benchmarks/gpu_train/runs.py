"""The runs that can be trained: their losses and settings, and how far each of them is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from fmicl_recipes.options import NEUTRAL
from fmicl_recipes.presets import resolve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

PRESET = "cifar10-gpu"
#: Losses by name; the first ones are those that tell most.
RUNS: dict[str, dict[str, Any]] = {
    "js": {"loss": "fmicl", "divergence": "js", "alpha": 40.0},
    "info-nce": {"loss": "info-nce", "temperature": 0.2},  # the best one in our tries on CPUs
    "kl": {"loss": "fmicl", "divergence": "kl", "alpha": 40.0},
    "info-nce-0.1": {"loss": "info-nce", "temperature": 0.1},
    "info-nce-0.5": {"loss": "info-nce", "temperature": 0.5},
}
#: Settings that are columns of the results.
SHOWN = (
    "loss", "divergence", "alpha", "temperature", "encoder", "width", "projection_dim", "data",
    "limit", "batch_size", "epochs", "lr", "weight_decay", "grayscale", "precision", "cache",
    "compile", "seed",
)  # fmt: skip
#: File of a run folder that says that everything was measured of the finished run.
SCORES = "gpu_train_scores.json"


class Run(NamedTuple):
    """One loss, trained by one library.

    Args:
        library: name of the framework, "torch" or "jax".
        name: name in `RUNS`.
        settings: settings of the training.
    """

    library: str
    name: str
    settings: TrainSettings

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.library} {self.name}"

    def columns(self) -> dict[str, Any]:
        """The run's name and the settings that apply to it, for a row of the results."""
        settings = self.settings
        shown = {name: getattr(settings, name) for name in SHOWN if settings.applies(name)}
        shown["data"] = Path(settings.data).name
        return {"run": self.name} | {k: v for k, v in shown.items() if v is not None}

    def path(self, work: Path) -> Path:
        """Path of the run's folder: other settings, another folder."""
        # Of caches there are memory and gpu here, which have the same result.
        passed = (*NEUTRAL, "cache")
        values = {k: v for k, v in self.settings.to_dict().items() if k not in passed}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]
        return work / f"{self.library}-{self.name}-{self.settings.epochs}-{digest}"

    def epochs_done(self, work: Path) -> int:
        """Number of epochs that are in the run's folder."""
        return len(RunFolder(self.path(work)).read_history())

    def finished(self, work: Path) -> bool:
        """Whether the run is trained to the end, and everything was measured of it."""
        measured = (self.path(work) / SCORES).exists()
        return measured and self.epochs_done(work) >= self.settings.epochs


def run_of(library: str, name: str, device: str, given: dict[str, Any]) -> Run:
    """The run of that name by a library.

    Args:
        library: name of the framework, "torch" or "jax".
        name: name in `RUNS`.
        device: "cuda" or "cpu".
        given: options that differ from the preset's.

    Raises:
        ValueError: an option is unknown or does not fit.
    """
    fixed = {"method": "simclr", "framework": library}
    fixed |= {"device": "cpu" if device == "cpu" else "gpu"}
    return Run(library, name, resolve(PRESET, {**fixed, **RUNS[name], **given}))
