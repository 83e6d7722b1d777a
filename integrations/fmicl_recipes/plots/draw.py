"""All pictures of one run or several, in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fmicl_recipes.evaluation import ACCURACIES
from fmicl_recipes.plots.charts import accuracy_bars, distance_histogram, loss_curves
from fmicl_recipes.plots.embedding import embedding_map
from fmicl_recipes.progress import note
from fmicl_recipes.report import negative_losses

LOSS, DISTANCES, EMBEDDING, ACCURACY = "loss.png", "distances.png", "embedding.png", "accuracy.png"
#: What `draw_runs` writes.
FILES = LOSS, DISTANCES, EMBEDDING, ACCURACY

#: From the path of a picture, which is drawn, to the path.
Drawing = Callable[[Path], Path]


def draw_runs(
    folder: Path,
    metrics: Mapping[str, dict[str, Any]],
    features: Mapping[str, Mapping[str, Any]],
    bars: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Loss curves, pair distances, embedding maps and bars of accuracies.

    A picture that cannot be drawn is left out, with a note.

    Args:
        folder: folder of the pictures.
        metrics: contents of metrics.json, by run.
        features: contents of embeddings.npz, by run; without any there are no distances and maps.
        bars: metrics by name of which to draw the accuracies; None draws no bars.

    Returns:
        The pictures that were drawn.
    """
    losses = {name: row["loss_history"] for name, row in metrics.items()}
    text = " ".join(negative_losses(metrics))
    drawings: dict[str, Drawing] = {LOSS: lambda path: loss_curves(losses, path, text)}
    if features:
        drawings[DISTANCES] = lambda path: distance_histogram(
            {name: (f["view_x"], f["view_y"]) for name, f in features.items()}, path
        )
        drawings[EMBEDDING] = lambda path: embedding_map(
            {name: f["test"] for name, f in features.items()},
            path,
            {name: _classes(f) for name, f in features.items() if "test_labels" in f},
        )
    if bars and any(key in row for row in bars.values() for key in ACCURACIES):
        drawings[ACCURACY] = partial(accuracy_bars, bars)
    return draw_each(folder, drawings)


def draw_each(folder: Path, drawings: Mapping[str, Drawing]) -> list[Path]:
    """Draw each picture on its own; one that fails is left out, with a note that says why.

    Args:
        folder: folder of the pictures.
        drawings: what draws each picture, by the name of its file.

    Returns:
        The pictures that were drawn.
    """
    done = []
    for name, draw in drawings.items():
        try:
            done.append(draw(folder / name))
        except Exception as error:
            note(f"{name} is left out, as drawing it failed: {type(error).__name__}: {error}")
            with suppress(OSError):  # neither half a picture nor that of an earlier time
                (folder / name).unlink(missing_ok=True)
    return done


def _classes(features: Mapping[str, Any]) -> Any:
    """The class of every test image: its name, or its number where classes have no names."""
    labels = features["test_labels"]
    return features["class_names"][labels] if "class_names" in features else labels
