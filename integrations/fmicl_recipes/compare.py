"""Several finished runs side by side: `fmicl compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmicl_core.checks import invalid
from fmicl_recipes import plots, report
from fmicl_recipes.archives import read_arrays
from fmicl_recipes.checks import is_number
from fmicl_recipes.differences import differences, untrained_alike
from fmicl_recipes.files import check_folder, make_folder, write_atomically
from fmicl_recipes.progress import note
from fmicl_recipes.run_folder import SETTINGS, RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.text import METHODS as TEXT_METHODS
from fmicl_recipes.text import TextSettings

#: Files of a comparison beside its pictures.
TABLE, NUMBERS = "comparison.md", "metrics.json"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _losses(value: Any) -> bool:
    rows = value if isinstance(value, list) else [None]
    return all(map(is_number, rows))


def _shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3


#: What metrics.json has that a comparison goes by: whether a value is right, and what would be.
KNOWN = {
    "data": (_text, "a text"),
    "image_shape": (_shape, "three numbers"),
    "loss_history": (_losses, "finite numbers"),
    "loss": (_text, "a text"),
    "test_digest": (_text, "a text"),
    "evaluated_on": (_text, "a text"),
    "train_images": (_count, "a whole number"),
    "test_images": (_count, "a whole number"),
    "knn_k": (_count, "a whole number"),
}


class Comparison(NamedTuple):
    """What `compare_runs` found.

    Attributes:
        rows: metrics by name, baselines first where a run has them.
        files: paths of the files that were written.
        remarks: sentences, one for each setting in which the runs differ beside loss and method,
            the most severe first.
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
        overwrite: whether to replace the files of an earlier comparison in `out`.

    Raises:
        ValueError: `out` is not empty and may not be overwritten; a folder is given twice or holds
            no finished run; or runs on images and on texts are mixed.
    """
    target = _target(out, overwrite)
    folders = [RunFolder(path) for path in runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise invalid("runs", "every folder once", [str(path) for path in runs])
    settings = [_settings(folder) for folder in folders]
    read = [_metrics(folder) for folder in folders]
    texts = {report.is_text({"": metrics}) for metrics in read}
    if len(texts) > 1:
        raise invalid("runs", "runs on images alone or on texts alone", [str(p) for p in runs])
    arrays = [] if texts == {True} else [_features(folder) for folder in folders]
    names = _names(folders)
    titles = _distinct([m["title"] for m in read], names)
    metrics = dict(zip(titles, read, strict=True))
    features = dict(zip(titles, arrays, strict=False))  # texts have none
    rows = {**_baselines(names, settings, read), **metrics}
    remarks = differences(titles, settings, read)

    make_folder(target.path)
    for name in (TABLE, NUMBERS, *plots.FILES):
        (target.path / name).unlink(missing_ok=True)
    text = report.markdown(rows, remarks).encode()
    files = [
        target.write_json(NUMBERS, rows),
        write_atomically(target.path / TABLE, lambda file: file.write(text)),
    ]
    note("drawing")
    files += plots.draw_runs(target.path, metrics, features, rows)
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


def _settings(folder: RunFolder) -> dict[str, Any]:
    """The contents of a run's settings.json, which are settings."""
    values = folder.read_json(SETTINGS)
    texts = values.get("method") in list(TEXT_METHODS)
    RunFolder(folder.path, TextSettings if texts else TrainSettings).settings()
    return values


def _metrics(folder: RunFolder) -> dict[str, Any]:
    """The contents of a run's metrics.json; a comparison has a file of that name, too."""
    metrics = folder.read_json("metrics.json")
    if not {"title", "data", "baselines", "loss_history"} <= set(metrics):
        raise invalid("run", "a folder of one finished run", str(folder.path))
    for name, (right, expected) in KNOWN.items():
        if name in metrics and not right(metrics[name]):
            raise invalid("run", f"a metrics.json with {expected} as {name}", metrics[name],
                          what=name)  # fmt: skip
    report.check_rows({str(metrics["title"]): metrics})
    report.check_rows(metrics["baselines"])
    return metrics


def _features(folder: RunFolder) -> dict[str, Any]:
    """The contents of a run's embeddings.npz."""
    try:
        return read_arrays(folder.path / "embeddings.npz")
    except ValueError as error:
        why = "`fmicl evaluate` writes it anew."
        raise invalid("run", "a run folder with a whole embeddings.npz", str(folder.path),
                      why=why) from error  # fmt: skip


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
    """Baselines of all runs, each once; one that not every run shares names the runs it is of.

    Args:
        names: names of the folders.
        settings: settings of the runs, in the same order.
        read: metrics of the runs, in the same order.
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
    rows: dict[str, dict[str, Any]] = {}
    for name, known in found.items():
        pixels = name == "raw pixels"
        kinds = {untrained_alike(s, m, pixels=pixels) for s, m in zip(settings, read, strict=True)}
        of_all = len(known) == 1 and (len(kinds) == 1 or known[0][0] == list(names))
        rows |= {name if of_all else f"{name} ({', '.join(o)})": row for o, row in known}
    return rows


def _equal(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether what both say is the same; an older run may say less."""
    return all(other[key] == value for key, value in row.items() if key in other)
