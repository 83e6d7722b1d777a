"""Pictures of runs: loss curves, pair distances, embedding maps, accuracies. By matplotlib."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from fmicl_core import DIVERGENCES
from fmicl_recipes.evaluation import (
    ACCURACIES,
    PAIR_ROWS,
    on_a_point,
    pair_distances,
    unit,
    wilson_interval,
)
from fmicl_recipes.progress import note

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: So many classes have a legend; more have a bar of colours.
LEGEND_CLASSES = 20
Array = NDArray[np.floating]


def pictures(folder: Path, drawings: Mapping[str, Callable[[Path], Path]]) -> list[Path]:
    """Draw each picture on its own; one that fails is left out, with a note that says why.

    Args:
        folder: where they go.
        drawings: by file name, from the path to the path.

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


def _axes(count: int, width: float = 3.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(width * count, 4.8), height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _caption(figure: Figure, text: str) -> None:
    """A small text below everything, in lines as long as the figure is wide."""
    lines = textwrap.fill(text, int(17 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="0.35")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path


def loss_curves(histories: Mapping[str, Sequence[float]], path: Path, caption: str = "") -> Path:
    """Loss against the epoch, a panel a run since losses have different scales."""
    figure, panels = _axes(len(histories), height=3.0)
    for axes, colour, (name, losses) in zip(panels, _cycle(), histories.items(), strict=False):
        axes.plot(range(1, len(losses) + 1), losses, color=colour, marker="." * (len(losses) < 40))
        axes.set(title=name, xlabel="epoch")
        if len(losses) == 1:
            axes.set_xlim(0.5, 1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _clean(axes)
    panels[0].set_ylabel("training loss")
    if caption:
        _caption(figure, caption)
    return _save(figure, path)


def distance_histogram(views: Mapping[str, tuple[Array, Array]], path: Path) -> Path:
    """Distances of positive and of negative pairs on the unit sphere, a panel a run.

    Args:
        views: by run, features (N, D) of two views of the same samples.
        path: of the PNG.
    """
    figure, panels = _axes(len(views), height=2.8)
    bins = np.linspace(0.0, 2.0, 61)
    for axes, (name, (x, y)) in zip(panels, views.items(), strict=True):
        positive, negative = pair_distances(x, y)
        for values, label, colour in (
            (positive, "two views of one image", COLOURS[0]),
            (negative, "different images", COLOURS[1]),
        ):
            if len(values):  # a single image has no other
                values = np.minimum(values, 2.0)
                axes.hist(values, bins, density=True, alpha=0.6, color=colour, label=label)
        axes.set(title=name, xlabel="distance on the unit sphere", xlim=(0, 2), yticks=[])
        _clean(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return _save(figure, path)


def embedding_map(
    features: Mapping[str, Array],
    path: Path,
    classes: Mapping[str, NDArray] | None = None,
    rows: int = PAIR_ROWS,
) -> Path:
    """t-SNE map of the unit features in two dimensions, a panel a run.

    Features that are all the same have no map; their panel says so, and so does a note.

    Args:
        features: by run, (N, D).
        path: of the PNG.
        classes: by run, numbers or names (N,) by which its points are coloured; grey without.
        rows: draw the first so many.
    """
    shown = {name: of_run[:rows].tolist() for name, of_run in (classes or {}).items()}
    known = sorted({c for of_run in shown.values() for c in of_run}, key=_by_number)
    colours = dict(zip(known, _class_colours(len(known)), strict=True))
    figure, panels = _axes(len(features))
    figure.suptitle("t-SNE of the features" + ", coloured by class" * bool(known))
    for axes, (name, x) in zip(panels, features.items(), strict=True):
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if reason := _no_map(x[:rows]):
            axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes)
            note(f"{path.name} has no map of {name}: {reason}".replace("\n", " "))
            continue
        paint = [colours[c] for c in shown[name]] if name in shown else "0.4"
        axes.scatter(*_tsne(x[:rows]).T, c=paint, s=5, linewidths=0)
    if known:
        _class_legend(figure, panels, colours)
    return _save(figure, path)


def _by_number(name: object) -> list[tuple[bool, int, str]]:
    """Key by which "class 2" comes before "class 10"."""
    parts = re.findall(r"\d+|\D+", str(name))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _no_map(x: Array) -> str:
    """Why features have no t-SNE map; nothing where they have one."""
    if len(x) < 2:
        return "a single image"
    if not np.isfinite(x).all():
        return "features are not finite"
    return "all features are the same:\ncollapsed" if on_a_point(x) else ""


def _tsne(x: Array) -> Array:
    """Points (N, 2) of rows that differ.

    They are centred in double precision and scaled: of rows that lie close together scikit-learn's
    initial points would all be the same in single precision, it divides those by their spread, and
    its tree does not end on NaN but in a segmentation fault.
    """
    rows = unit(x.astype(np.float64))
    rows -= rows.mean(axis=0)
    rows /= np.abs(rows).max()
    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)


def _class_colours(count: int) -> Array:
    """(count, 4) colours, by which so many classes can be told apart as well as may be."""
    if count > LEGEND_CLASSES:
        return matplotlib.colormaps["turbo"](np.linspace(0.0, 1.0, count))
    return matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))


def _class_legend(figure: Figure, panels: list[Axes], colours: Mapping[Any, Array]) -> None:
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
    ticks = np.unique(np.linspace(0, len(names) - 1, 8).round().astype(int))
    bar.set_ticks(ticks, labels=[names[i] for i in ticks])
    bar.ax.minorticks_off()


def accuracy_bars(rows: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Accuracies of kNN and linear probe in percent, a group of bars a row.

    Args:
        rows: metrics by name; one without accuracies has no bars. With "test_images", their number,
            a bar has its 95 percent interval.
        path: of the PNG.
    """
    rows = {name: row for name, row in rows.items() if not ACCURACIES.keys().isdisjoint(row)}
    figure, (axes,) = _axes(1, width=max(4.8, 1.7 * len(rows)), height=3.6)
    for place, (colour, (key, label)) in enumerate(zip(COLOURS, ACCURACIES.items(), strict=False)):
        values = np.array([row.get(key, np.nan) for row in rows.values()])
        ends = np.array([
            wilson_interval(value, row["test_images"]) if row.get("test_images") else (value, value)
            for value, row in zip(values, rows.values(), strict=True)
        ]).T  # fmt: skip
        position = np.arange(len(rows)) + 0.28 * (place - 1)
        reach = 100.0 * np.abs(ends - values)
        bars = axes.bar(position, 100.0 * values, 0.26, color=colour, label=label, yerr=reach,
                        error_kw={"elinewidth": 0.8, "capsize": 2})  # fmt: skip
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
    axes.set_xticks(range(len(rows)), [textwrap.fill(name, 18) for name in rows])
    axes.set(ylabel="test accuracy, percent", ylim=(0, 110), xlim=(-0.5, len(rows) - 0.5))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    if any(row.get("test_images") for row in rows.values()):
        _caption(figure, "Lines: 95 percent intervals (binomial, Wilson), for the choice of the "
                         "test images alone; other seeds of training are not in them.")  # fmt: skip
    _clean(axes)
    return _save(figure, path)


def sweep_curve(scores: Mapping[str, Mapping[float, float]], label: str, path: Path) -> Path:
    """Score in percent against alpha, a line a run title; the best alpha of each is marked."""
    figure, (axes,) = _axes(1, width=5.2, height=3.2)
    for colour, (name, values) in zip(_cycle(), scores.items(), strict=False):
        alphas, points = list(values), [100.0 * v for v in values.values()]
        best = int(np.argmax(points))
        axes.plot(alphas, points, color=colour, marker=".", label=name)
        axes.plot(alphas[best], points[best], color=colour, marker="o", markersize=9, mfc="none")
        axes.annotate(f"{alphas[best]:g}", (alphas[best], points[best]), (0, 8), ha="center",
                      textcoords="offset points", fontsize=8, color=colour)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(y=0.18)
    axes.set(title=label, xlabel="alpha", ylabel="percent")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _clean(axes)
    return _save(figure, path)


def _cycle() -> Sequence[str]:
    return COLOURS * 4


def divergence_curves(path: Path) -> Path:
    """Score of a positive pair and penalty of a negative pair against the squared distance.

    On the unit sphere with the default Gaussian; a panel each, a line a divergence.
    """
    d2 = np.linspace(0.0, 4.0, 401)
    figure, (left, right) = _axes(2, width=4.4)
    for index, (name, make) in enumerate(DIVERGENCES.items()):
        divergence = make()
        style = "-" if divergence.suitable else ":"
        colour = COLOURS[index % len(COLOURS)]
        shared = {"color": colour, "linestyle": "--" if index >= len(COLOURS) else style}
        left.plot(d2, divergence.score(-d2), label=name, **shared)
        right.plot(d2, divergence.penalty(-d2), **shared)
    left.set(title="score of a positive pair", ylim=(-8, 2.5))
    right.set(title="penalty of a negative pair", ylim=(-8, 3.5))
    for axes in (left, right):
        axes.set_xlabel("squared distance on the unit sphere")
        _clean(axes)
    figure.legend(loc="outside right center", frameon=False)
    return _save(figure, path)
