"""Several finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes import plots, report
from fmicl_recipes.run_folder import RunFolder, make_folder, write_atomically


def compare_runs(
    runs: Sequence[str | Path], out: str | Path
) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Table and plots of finished runs.

    Args:
        runs: folders of runs.
        out: folder for comparison.md, metrics.json and the plots; made if missing.

    Returns:
        Metrics by run, baselines first where a run has them; and the files written.

    Raises:
        ValueError: a folder holds no finished run, or the runs saw different data.
    """
    folders = [RunFolder(path) for path in runs]
    read = [_metrics(folder) for folder in folders]
    data = {Path(metrics["data"]).name for metrics in read}
    if len(data) > 1:
        raise invalid("runs", "runs on the same data", sorted(data), what="data")
    texts = {"sts" in metrics for metrics in read}
    if len(texts) > 1:
        raise invalid("runs", "runs on images alone or on texts alone", [str(p) for p in runs])
    titles = _distinct([m["title"] for m in read], [folder.path.name for folder in folders])
    metrics = dict(zip(titles, read, strict=True))
    baselines = {k: row for m in read for k, row in m["baselines"].items()}
    rows = {**baselines, **metrics}
    target = RunFolder(make_folder(out))
    text = report.markdown(rows).encode()
    files = [
        target.write_json("metrics.json", rows),
        write_atomically(target.path / "comparison.md", lambda file: file.write(text)),
    ]
    if texts == {True}:
        histories = {name: row["loss_history"] for name, row in metrics.items()}
        return rows, [*files, plots.loss_curves(histories, target.path / "loss.png")]
    features = {title: _features(folder) for title, folder in zip(titles, folders, strict=True)}
    files += draw(target.path, metrics, features)
    return rows, [*files, plots.accuracy_bars(rows, target.path / "accuracy.png")]


def _metrics(folder: RunFolder) -> dict[str, Any]:
    """What metrics.json of a run holds; that of a comparison holds rows of several."""
    metrics = folder.read_json("metrics.json")
    if not {"title", "data", "baselines", "loss_history"} <= set(metrics):
        raise invalid("run", "a folder of one finished run", str(folder.path))
    return metrics


def _features(folder: RunFolder) -> Any:
    file = folder.path / "embeddings.npz"
    try:
        return np.load(file)
    except (OSError, ValueError, BadZipFile) as error:
        why = "`fmicl evaluate` writes it anew."
        raise invalid("run", "a run folder with a whole embeddings.npz", str(folder.path),
                      why=why) from error  # fmt: skip


def draw(folder: Path, metrics: dict[str, Any], features: dict[str, Any]) -> list[Path]:
    """Loss curves, pair distances and embedding maps of one run or several.

    Args:
        folder: where the PNGs go.
        metrics: by run, what its metrics.json holds.
        features: by run, what its embeddings.npz holds.
    """
    losses = {name: row["loss_history"] for name, row in metrics.items()}
    views = {name: (f["view_x"], f["view_y"]) for name, f in features.items()}
    maps = {name: f["test"] for name, f in features.items()}
    labels = next(iter(features.values()))["test_labels"]
    return [
        plots.loss_curves(losses, folder / "loss.png"),
        plots.distance_histogram(views, folder / "distances.png"),
        plots.embedding_map(maps, labels, folder / "embedding.png"),
    ]


def _distinct(titles: list[str], names: list[str]) -> list[str]:
    """Titles, with the folder's name where two runs share one."""
    shared = len(set(titles)) < len(titles)
    return [f"{t} ({n})" if shared else t for t, n in zip(titles, names, strict=True)]
