"""Pictures of runs: loss curves, pair distances, embedding maps, accuracies. By matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from fmicl_core import DIVERGENCES
from fmicl_recipes.evaluation import PAIR_ROWS, pair_distances

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Array = NDArray[np.floating]


def _axes(count: int, width: float = 3.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(width * count, 4.8), height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path


def loss_curves(histories: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Loss against the epoch, a panel a run since losses have different scales."""
    figure, panels = _axes(len(histories), height=2.8)
    for axes, colour, (name, losses) in zip(panels, _cycle(), histories.items(), strict=False):
        axes.plot(range(1, len(losses) + 1), losses, color=colour, marker="." * (len(losses) < 40))
        axes.set(title=name, xlabel="epoch")
        _clean(axes)
    panels[0].set_ylabel("training loss")
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
            axes.hist(values, bins, density=True, alpha=0.6, color=colour, label=label)
        axes.set(title=name, xlabel="distance on the unit sphere", xlim=(0, 2), yticks=[])
        _clean(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return _save(figure, path)


def embedding_map(
    features: Mapping[str, Array], labels: NDArray[np.int64], path: Path, rows: int = PAIR_ROWS
) -> Path:
    """t-SNE map of the unit features in two dimensions, coloured by class, a panel a run."""
    figure, panels = _axes(len(features))
    for axes, (name, x) in zip(panels, features.items(), strict=True):
        unit = normalize(x[:rows])
        perplexity = min(30.0, (len(unit) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(unit)
        drawn = axes.scatter(*points.T, c=labels[:rows], cmap="tab10", s=5, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if len(np.unique(labels)) <= 10:
        figure.legend(
            *drawn.legend_elements(), loc="outside right center", frameon=False, title="class"
        )
    return _save(figure, path)


def accuracy_bars(rows: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Accuracies of kNN and linear probe in percent, a group of bars a row."""
    figure, (axes,) = _axes(1, width=max(4.8, 1.7 * len(rows)))
    measures = {
        "kNN": "knn_accuracy",
        "linear, 10 labels a class": "linear10_accuracy",
        "linear, all labels": "linear_accuracy",
    }
    for place, (colour, (label, key)) in enumerate(zip(COLOURS, measures.items(), strict=False)):
        values = [100.0 * row[key] for row in rows.values()]
        position = np.arange(len(rows)) + 0.28 * (place - 1)
        bars = axes.bar(position, values, 0.26, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set(ylabel="test accuracy, percent", ylim=(0, 108))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
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
