"""The contents of metrics.json: what a run is, its scores, and where it was made."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fmicl_recipes.shared_settings import SharedSettings

#: Packages whose versions are kept.
PACKAGES = (
    "fmicl", "numpy", "torch", "lightning", "jax", "flax", "optax", "orbax-checkpoint",
    "keras", "tensorflow", "tensorflow-cpu", "datasets", "scikit-learn", "sentence-transformers",
    "transformers", "accelerate",
)  # fmt: skip


def cpu_name() -> str:
    """Model name of the processor, or the architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            match = re.search(r"model name\s*:\s*(.+)", file.read())
    except OSError:
        match = None
    return match.group(1) if match else platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def assemble_metrics(
    settings: SharedSettings,
    history: Sequence[Mapping[str, float]],
    scores: Mapping[str, float],
    seconds: float,
    baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The contents of metrics.json; accuracies in [0, 1].

    Args:
        settings: options of the run.
        history: rows with "loss", an epoch each.
        scores: accuracies, alignment, uniformity, rank.
        seconds: wall-clock time of training.
        baselines: scores of raw pixels and of the untrained encoder.
    """
    named: tuple[str, ...] = ("method", "framework", "data", "loss", "divergence", "epochs", "seed")
    values = settings.to_dict()
    if values.get("framework") == "tensorflow":  # elsewhere the option says nothing
        named = (*named, "keras_backend")
    return {
        "title": settings.title,
        **{name: values[name] for name in named if name in values},
        **scores,
        "loss_history": [row["loss"] for row in history],
        "seconds": round(seconds, 2),
        "baselines": {name: dict(row) for name, row in baselines.items()},
        "versions": versions(),
        "machine": {
            "cores": os.cpu_count(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
    }
