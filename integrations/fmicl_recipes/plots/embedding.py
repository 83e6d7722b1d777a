"""Maps of features in two dimensions, by t-SNE of scikit-learn."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from fmicl_recipes.plots.canvas import panels_in_a_row, save
from fmicl_recipes.progress import note
from fmicl_recipes.sphere import PAIR_ROWS, Features, on_a_point, unit

#: So many classes have a legend; more have a bar of colours.
LEGEND_CLASSES = 20

Colour = tuple[float, float, float, float]


def embedding_map(
    features: Mapping[str, Features],
    path: Path,
    classes: Mapping[str, NDArray[Any]] | None = None,
    rows: int = PAIR_ROWS,
) -> Path:
    """t-SNE map of the unit features in two dimensions, a panel a run.

    Features that are all the same have no map; their panel says so, and so does a note.

    Args:
        features: features (N, D), by run.
        path: path of the picture.
        classes: numbers or names (N,) by which points are coloured, by run; a run without them is
            grey.
        rows: number of features to draw, the first ones.
    """
    shown = {name: of_run[:rows].tolist() for name, of_run in (classes or {}).items()}
    known = sorted({c for of_run in shown.values() for c in of_run}, key=_by_number)
    colours = dict(zip(known, _class_colours(len(known)), strict=True))
    figure, panels = panels_in_a_row(len(features))
    figure.suptitle("t-SNE of the features" + ", coloured by class" * bool(known))
    for axes, (name, x) in zip(panels, features.items(), strict=True):
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if reason := _no_map(x[:rows]):
            axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
            note(f"{path.name} has no map of {name}: {reason}".replace("\n", " "))
            continue
        paint = [colours[c] for c in shown[name]] if name in shown else "0.4"
        across, up = _tsne(x[:rows]).T
        axes.scatter(across, up, c=paint, s=5, linewidths=0)
    if known:
        _class_legend(figure, panels, colours)
    return save(figure, path)


def _by_number(name: object) -> list[tuple[bool, int, str]]:
    """Key by which "class 2" comes before "class 10"."""
    parts = re.findall(r"\d+|\D+", str(name))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _no_map(x: Features) -> str:
    """Why features have no t-SNE map; nothing where they have one."""
    if len(x) < 2:
        return "a single image"
    if not np.isfinite(x).all():
        return "features are not finite"
    return "all features are the same:\ncollapsed" if on_a_point(x) else ""


def _tsne(x: Features) -> Features:
    """Points (N, 2) of rows that differ.

    They are centred in double precision and scaled: of rows that lie close together scikit-learn's
    initial points would all be the same in single precision, it divides those by their spread, and
    its tree does not end on NaN but in a segmentation fault.
    """
    rows = unit(x.astype(np.float64))
    rows -= rows.mean(axis=0)
    rows /= np.abs(rows).max()
    perplexity = min(30.0, (len(rows) - 1) / 3)
    points: Features = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    return points


def _class_colours(count: int) -> list[Colour]:
    """Colours by which so many classes can be told apart as well as may be."""
    if count > LEGEND_CLASSES:
        values = matplotlib.colormaps["turbo"](np.linspace(0.0, 1.0, count))
    else:
        values = matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    return [(red, green, blue, alpha) for red, green, blue, alpha in values.tolist()]


def _class_legend(figure: Figure, panels: list[Axes], colours: Mapping[Any, Colour]) -> None:
    """The names of the classes beside their colours, as a list or along a bar."""
    names = [textwrap.shorten(str(name), 24) for name in colours]
    if len(names) <= LEGEND_CLASSES:
        columns = 1 + (len(names) > 10)
        room = columns * (0.35 + 0.08 * max(map(len, names)))
        figure.set_figwidth(figure.get_figwidth() + room)
        dots = [Line2D([], [], marker="o", linestyle="", color=c) for c in colours.values()]
        figure.legend(dots, names, loc="outside right center", frameon=False, title="class",
                      fontsize=8, markerscale=0.7, handletextpad=0.1, ncols=columns)  # fmt: skip
        return
    edges = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    scale = ScalarMappable(edges, ListedColormap(list(colours.values())))
    bar = figure.colorbar(scale, ax=panels, label="class")
    ticks = np.unique(np.linspace(0, len(names) - 1, 8).round().astype(int)).tolist()
    bar.set_ticks(ticks, labels=[names[i] for i in ticks])
    bar.ax.minorticks_off()
