"""Curves, histograms and bars: loss, pair distances, accuracies, sweeps, divergences."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fmicl_core import DIVERGENCES
from fmicl_recipes.evaluation import ACCURACIES, wilson_interval
from fmicl_recipes.plots.canvas import COLOURS, CYCLE, caption, panels_in_a_row, save, without_frame
from fmicl_recipes.sphere import Features, pair_distances


def loss_curves(histories: Mapping[str, Sequence[float]], path: Path, text: str = "") -> Path:
    """Loss against the epoch, a panel a run since losses have different scales.

    Args:
        histories: losses of the epochs, by run.
        path: path of the picture.
        text: caption; empty for none.
    """
    figure, panels = panels_in_a_row(len(histories), height=3.0)
    for axes, colour, (name, losses) in zip(panels, CYCLE, histories.items(), strict=False):
        axes.plot(range(1, len(losses) + 1), losses, color=colour, marker="." * (len(losses) < 40))
        axes.set(title=name, xlabel="epoch")
        if len(losses) == 1:
            axes.set_xlim(0.5, 1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        without_frame(axes)
    panels[0].set_ylabel("training loss")
    if text:
        caption(figure, text)
    return save(figure, path)


def distance_histogram(views: Mapping[str, tuple[Features, Features]], path: Path) -> Path:
    """Distances of positive and of negative pairs on the unit sphere, a panel a run.

    Args:
        views: features (N, D) of two views of the same samples, by run.
        path: path of the picture.
    """
    figure, panels = panels_in_a_row(len(views), height=2.8)
    bins = np.linspace(0.0, 2.0, 61).tolist()
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
        without_frame(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return save(figure, path)


def accuracy_bars(rows: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Accuracies of kNN and linear probe in percent, a group of bars a row.

    Args:
        rows: metrics by name; a row without accuracies has no bars. A row that says the number of
            its "test_images" has 95 percent intervals.
        path: path of the picture.
    """
    rows = {name: row for name, row in rows.items() if not ACCURACIES.keys().isdisjoint(row)}
    figure, (axes,) = panels_in_a_row(1, width=max(4.8, 1.7 * len(rows)), height=3.6)
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
        caption(figure, "Lines: 95 percent intervals (binomial, Wilson), for the choice of the "
                        "test images alone; other seeds of training are not in them.")  # fmt: skip
    without_frame(axes)
    return save(figure, path)


def sweep_curve(scores: Mapping[str, Mapping[float, float]], label: str, path: Path) -> Path:
    """Score in percent against alpha, a line a run title; the best alpha of each is marked."""
    figure, (axes,) = panels_in_a_row(1, width=5.2, height=3.2)
    for colour, (name, values) in zip(CYCLE, scores.items(), strict=False):
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
    without_frame(axes)
    return save(figure, path)


def divergence_curves(path: Path) -> Path:
    """Score of a positive pair and penalty of a negative pair against the squared distance.

    On the unit sphere with the default Gaussian; a panel each, a line a divergence.
    """
    d2 = np.linspace(0.0, 4.0, 401)
    figure, (left, right) = panels_in_a_row(2, width=4.4)
    for index, (name, make) in enumerate(DIVERGENCES.items()):
        divergence = make()
        dashed = "--" if index >= len(COLOURS) else "-" if divergence.suitable else ":"
        colour = COLOURS[index % len(COLOURS)]
        left.plot(d2, divergence.score(-d2), label=name, color=colour, linestyle=dashed)
        right.plot(d2, divergence.penalty(-d2), color=colour, linestyle=dashed)
    left.set(title="score of a positive pair", ylim=(-8, 2.5))
    right.set(title="penalty of a negative pair", ylim=(-8, 3.5))
    for axes in (left, right):
        axes.set_xlabel("squared distance on the unit sphere")
        without_frame(axes)
    figure.legend(loc="outside right center", frameon=False)
    return save(figure, path)
