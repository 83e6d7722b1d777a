"""Several finished runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes import plots, report
from fmicl_recipes.conditions import differences, untrained_alike
from fmicl_recipes.evaluation import ACCURACIES
from fmicl_recipes.progress import note
from fmicl_recipes.run_folder import RunFolder, check_folder, make_folder, write_atomically

#: Files of a comparison, which a later one may replace.
TABLE, NUMBERS = "comparison.md", "metrics.json"
LOSS, DISTANCES, EMBEDDING, ACCURACY = "loss.png", "distances.png", "embedding.png", "accuracy.png"


class Comparison(NamedTuple):
    """What `compare_runs` found.

    Args:
        rows: metrics by name, baselines first where a run has them.
        files: that were written.
        remarks: a sentence for each setting in which the runs differ beside loss and method, the
            most severe first.
    """

    rows: dict[str, dict[str, Any]]
    files: list[Path]
    remarks: list[str]


def compare_runs(
    runs: Sequence[str | Path], out: str | Path, *, overwrite: bool = False
) -> Comparison:
    """Table and plots of finished runs.

    Args:
        runs: folders of runs.
        out: folder for comparison.md, metrics.json and the plots; made if missing.
        overwrite: replace the files of an earlier comparison in `out`.

    Raises:
        ValueError: `out` is not empty and may not be overwritten; a folder is given twice or holds
            no finished run; or runs on images and on texts are mixed.
    """
    target = _target(out, overwrite)
    folders = [RunFolder(path) for path in runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise invalid("runs", "every folder once", [str(path) for path in runs])
    read = [_metrics(folder) for folder in folders]
    texts = {report.is_text({"": metrics}) for metrics in read}
    if len(texts) > 1:
        raise invalid("runs", "runs on images alone or on texts alone", [str(p) for p in runs])
    features = {} if texts == {True} else {f.path: _features(f) for f in folders}
    names = _names(folders)
    titles = _distinct([m["title"] for m in read], names)
    metrics = dict(zip(titles, read, strict=True))
    settings = [folder.read_json("settings.json") for folder in folders]
    rows = {**_baselines(names, settings, read), **metrics}
    remarks = differences(titles, settings, read)

    make_folder(target.path)
    for name in (TABLE, NUMBERS, LOSS, DISTANCES, EMBEDDING, ACCURACY):
        (target.path / name).unlink(missing_ok=True)
    text = report.markdown(rows, remarks).encode()
    files = [
        target.write_json(NUMBERS, rows),
        write_atomically(target.path / TABLE, lambda file: file.write(text)),
    ]
    note("drawing")
    if texts == {True}:
        return Comparison(rows, [*files, *draw(target.path, metrics, {})], remarks)
    files += draw(target.path, metrics, dict(zip(titles, features.values(), strict=True)))
    if any(key in row for row in rows.values() for key in ACCURACIES):
        files += plots.pictures(target.path, {ACCURACY: partial(plots.accuracy_bars, rows)})
    return Comparison(rows, files, remarks)


def _target(out: str | Path, overwrite: bool) -> RunFolder:
    """The folder to write, checked before anything is read."""
    folder = Path(out)
    if (folder / "settings.json").exists():
        raise invalid("out", "a folder that holds no run", str(out),
                      why="The run's metrics.json would be lost.")  # fmt: skip
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        expected = "a folder that does not exist yet, or --overwrite to replace the files in it"
        raise invalid("out", expected, str(out))
    return RunFolder(folder)


def _metrics(folder: RunFolder) -> dict[str, Any]:
    """What metrics.json of a run holds; that of a comparison holds rows of several."""
    metrics = folder.read_json("metrics.json")
    if not {"title", "data", "baselines", "loss_history"} <= set(metrics):
        raise invalid("run", "a folder of one finished run", str(folder.path))
    return metrics


def _features(folder: RunFolder) -> dict[str, Any]:
    try:
        with np.load(folder.path / "embeddings.npz") as file:
            return dict(file)
    except (OSError, ValueError, BadZipFile) as error:
        why = "`fmicl evaluate` writes it anew."
        raise invalid("run", "a run folder with a whole embeddings.npz", str(folder.path),
                      why=why) from error  # fmt: skip


def draw(
    folder: Path, metrics: Mapping[str, dict[str, Any]], features: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Loss curves, pair distances and embedding maps of one run or several.

    A picture that cannot be drawn is left out, with a note.

    Args:
        folder: where the PNGs go.
        metrics: by run, what its metrics.json holds.
        features: by run, what its embeddings.npz holds; without any there are loss curves alone.
    """
    losses = {name: row["loss_history"] for name, row in metrics.items()}
    caption = " ".join(report.negative_losses(metrics))
    drawings: dict[str, Callable[[Path], Path]] = {
        LOSS: lambda path: plots.loss_curves(losses, path, caption)
    }
    if features:
        drawings[DISTANCES] = lambda path: plots.distance_histogram(
            {name: (f["view_x"], f["view_y"]) for name, f in features.items()}, path
        )
        drawings[EMBEDDING] = lambda path: plots.embedding_map(
            {name: f["test"] for name, f in features.items()},
            path,
            {name: _classes(f) for name, f in features.items() if "test_labels" in f},
        )
    return plots.pictures(folder, drawings)


def _classes(features: Mapping[str, Any]) -> Any:
    """The class of every test image: its name, or its number where classes have no names."""
    labels = features["test_labels"]
    return features["class_names"][labels] if "class_names" in features else labels


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Names of the folders, with those above them where two share one."""
    names = [folder.path.resolve().name for folder in folders]
    shared = len(set(names)) < len(names)
    return [str(folder.path) if shared else n for folder, n in zip(folders, names, strict=True)]


def _distinct(titles: list[str], names: list[str]) -> list[str]:
    """Titles, with the folder's name where two runs share one."""
    shared = len(set(titles)) < len(titles)
    return [f"{t} ({n})" if shared else t for t, n in zip(titles, names, strict=True)]


def _baselines(
    names: Sequence[str], settings: Sequence[dict[str, Any]], read: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Baselines of all runs, each once: those that are not of every run have names of runs.

    Args:
        names: of the folders.
        settings: of the runs, in the same order.
        read: metrics of the runs.
    """
    found: dict[str, list[tuple[list[str], dict[str, Any]]]] = {}
    for run, metrics in zip(names, read, strict=True):
        size = {"test_images": metrics["test_images"]} if "test_images" in metrics else {}
        for name, row in metrics["baselines"].items():
            row, known = row | size, found.setdefault(name, [])
            same = next((owners for owners, other in known if _equal(row, other)), None)
            if same is None:
                known.append(([run], row))
            else:
                same.append(run)
    rows = {}
    for name, known in found.items():
        pixels = name == "raw pixels"
        kinds = {untrained_alike(s, m, pixels=pixels) for s, m in zip(settings, read, strict=True)}
        of_all = len(known) == 1 and (len(kinds) == 1 or known[0][0] == list(names))
        rows |= {name if of_all else f"{name} ({', '.join(o)})": row for o, row in known}
    return rows


def _equal(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether what both say is the same; an older run may say less."""
    return all(other[key] == value for key, value in row.items() if key in other)
