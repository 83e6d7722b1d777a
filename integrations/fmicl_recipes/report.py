"""metrics.json of a run, and tables of several."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fmicl_recipes.options import Settings

PACKAGES = (
    "fmicl", "numpy", "torch", "lightning", "kornia", "jax", "flax", "optax", "orbax-checkpoint",
    "keras", "tensorflow", "tensorflow-cpu", "datasets", "scikit-learn", "sentence-transformers",
    "transformers", "accelerate",
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

#: Columns of the tables of text runs; correlations in percent.
TEXT_COLUMNS = (
    *((task, label, "{:.1%}") for task, label in (
        ("sts12", "STS12"), ("sts13", "STS13"), ("sts14", "STS14"), ("sts15", "STS15"),
        ("sts16", "STS16"), ("stsb", "STS-B"))),
    ("sts_mean", "mean", "{:.1%}"),
    ("sts_unseen_mean", "mean, unseen", "{:.1%}"),
    ("alignment", "align", "{:.3f}"),
    ("uniformity", "uniform", "{:.3f}"),
    ("seconds", "s", "{:.0f}"),
)  # fmt: skip
TEXT_LEGEND = (
    "Spearman correlation of cosine and human score, in percent. unseen: over the pairs none of "
    "whose sentences was in the training data.\n"
    "align, uniform: Wang and Isola's alignment of STS-B's development pairs with a score of 4 or "
    "more, and uniformity of its sentences; lower is better. s: seconds of training."
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
    settings: Settings,
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


def table(
    rows: Mapping[str, Mapping[str, Any]], columns: Sequence[tuple[str, str, str]] = COLUMNS
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; accuracies in percent, a dash where a row has no such value."""
    headings = ["features", *(heading for _, heading, _ in columns)]
    cells = [
        [name, *(_cell(row, key, form) for key, _, form in columns)] for name, row in rows.items()
    ]
    return headings, cells


def text_table(rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of text runs."""
    return table({name: {**row, **row.get("sts", {})} for name, row in rows.items()}, TEXT_COLUMNS)


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(row[key]).removesuffix("%") if row.get(key) is not None else "-"


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    text = any("sts" in row for row in rows.values())
    headings, cells = text_table(rows) if text else table(rows)
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
