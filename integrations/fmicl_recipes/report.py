"""metrics.json of a run, and tables of several."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fmicl_recipes.settings import TrainSettings

PACKAGES = (
    "fmicl", "numpy", "torch", "lightning", "kornia", "jax", "flax", "optax", "orbax-checkpoint",
    "keras", "tensorflow", "tensorflow-cpu", "datasets", "scikit-learn",
)  # fmt: skip

#: Columns of every table: key in metrics.json, heading, format.
COLUMNS = (
    ("knn_accuracy", "kNN", "{:.1%}"),
    ("linear10_accuracy", "linear, 10", "{:.1%}"),
    ("linear_accuracy", "linear, all", "{:.1%}"),
    ("alignment", "align", "{:.3f}"),
    ("uniformity", "uniform", "{:.3f}"),
    ("embedding_rank", "rank", "{:.1f}"),
    ("seconds", "s", "{:.0f}"),
)

#: What the columns mean, to print below a table.
LEGEND = (
    "kNN, linear: test accuracy of the encoder's features in percent; linear probe with 10 labels "
    "a class, and with all.\n"
    "align, uniform: Wang and Isola's alignment and uniformity of the projections; lower is "
    "better. rank: their effective rank. s: seconds of training."
)


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
    settings: TrainSettings,
    history: Sequence[Mapping[str, float]],
    scores: Mapping[str, float],
    seconds: float,
    baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Everything metrics.json holds, accuracies in [0, 1].

    Args:
        settings: of the run.
        history: a row an epoch, with "loss".
        scores: accuracies, alignment, uniformity, rank.
        seconds: wall-clock time of training.
        baselines: scores of raw pixels and of the untrained encoder.
    """
    named = ("method", "framework", "data", "loss", "divergence", "epochs", "seed")
    values = settings.to_dict()
    return {
        "title": settings.title,
        **{name: values[name] for name in named},
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


def table(rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; accuracies in percent, a dash where a row has no such value."""
    headings = ["features", *(heading for _, heading, _ in COLUMNS)]
    cells = [
        [name, *(_cell(row, key, form) for key, _, form in COLUMNS)] for name, row in rows.items()
    ]
    return headings, cells


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(row[key]).removesuffix("%") if row.get(key) is not None else "-"


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    headings, cells = table(rows)
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
