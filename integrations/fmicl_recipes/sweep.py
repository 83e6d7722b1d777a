"""The search for alpha: double it while the score on held-out data improves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fmicl_core.checks import check_at_least, check_number, check_positive, invalid
from fmicl_recipes import plots
from fmicl_recipes.data import ImageData
from fmicl_recipes.data.images import CLASSES
from fmicl_recipes.files import check_folder, make_folder
from fmicl_recipes.options import default_of
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.shared_settings import SharedSettings

Score = Callable[[float], float]


def doubling_search(
    score: Score, start: float, factor: float = 2.0, patience: int = 2, most: int = 30
) -> dict[float, float]:
    """Scores by alpha, in ascending order: start, start * factor, start * factor^2, ...

    Goes up until `patience` values in a row did not improve on the best; then, if the best was the
    start itself, down from there in the same way.

    Args:
        score: function from alpha to the score, where higher is better; called once for each alpha.
        start: first alpha, > 0.
        factor: ratio of neighbouring values, > 1; 2 is the paper's.
        patience: number of values without an improvement that ends a direction, >= 1.
        most: number of values at which the search ends.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_search(start, factor, patience)
    check_at_least("most", most, 1)
    scores = {start: score(start)}
    for step in (factor, 1.0 / factor):
        alpha, misses = start, 0
        while misses < patience and len(scores) < most:
            alpha *= step
            best = max(scores.values())
            scores[alpha] = score(alpha)
            misses = 0 if scores[alpha] > best else misses + 1
        if max(scores, key=lambda alpha: scores[alpha]) != start:
            break
    return dict(sorted(scores.items()))


def _check_search(start: float, factor: float, patience: int) -> None:
    check_positive("start", start)
    if check_number("factor", factor) <= 1.0:
        raise invalid("factor", "a finite number > 1", factor)
    check_at_least("patience", patience, 1)


def check_sweep(
    settings: SharedSettings, out: str | Path, start: float, factor: float, patience: int
) -> None:
    """Check what `sweep_alpha` takes, before the images are loaded.

    Raises:
        ValueError: an argument is out of range, the loss has no alpha, or `out` cannot be made.
    """
    _check_search(start, factor, patience)
    check_folder(out)
    if settings.loss != "fmicl":
        raise invalid("loss", "'fmicl', which has an alpha", settings.loss)
    if settings.strength != default_of(settings.options()["strength"], settings.method):
        raise invalid("strength", "to be left out", settings.strength,
                      why="Every run of the search has a number alpha.")  # fmt: skip


def check_labels(data: ImageData) -> None:
    """Raise ValueError where images have no labels, before the first run of a search by kNN."""
    if data.labels is None:
        why = "The search compares kNN accuracies, which need labels."
        raise invalid("data", CLASSES, data.name, why=why)


def sweep_alpha(
    settings: SharedSettings,
    train: Callable[[Any, Path, bool], dict[str, Any]],
    measure: str,
    out: str | Path,
    *,
    label: str,
    start: float,
    factor: float = 2.0,
    patience: int = 2,
) -> tuple[dict[float, float], list[Path]]:
    """Train a run for each alpha of the search, except for runs that are finished in `out`.

    Args:
        settings: settings of every run; each has another alpha.
        train: function from settings, folder and whether to resume to metrics; it must not look at
            test data.
        measure: key of the score in the metrics.
        out: folder of the runs, of sweep.json and of alpha.png.
        label: name of the score in the picture.
        start: first alpha.
        factor: ratio of neighbouring values.
        patience: number of values without an improvement that ends a direction.

    Returns:
        Scores by alpha, and the files written.

    Raises:
        ValueError: an argument, the settings or the data do not fit; or `out` holds runs with other
            settings.
    """
    check_sweep(settings, out, start, factor, patience)
    target = RunFolder(out)

    def score(alpha: float) -> float:
        one = dataclasses.replace(settings, alpha=alpha)
        path = target.path / f"alpha-{alpha:g}"
        started = (path / "settings.json").exists()
        if started and (path / "metrics.json").exists():
            return float(RunFolder.resume(path, one).read_json("metrics.json")[measure])
        return float(train(one, path, started)[measure])

    scores = doubling_search(score, start, factor, patience)
    make_folder(out)
    best = max(scores, key=lambda alpha: scores[alpha])
    rows = [{"alpha": alpha, measure: value} for alpha, value in scores.items()]
    values = {"best": best, "measure": measure, "rows": rows, "settings": settings.to_dict()}
    name = target.write_json("sweep.json", values)
    curve = partial(plots.sweep_curve, {settings.title: scores}, label)
    return scores, [name, *plots.draw_each(target.path, {"alpha.png": curve})]
