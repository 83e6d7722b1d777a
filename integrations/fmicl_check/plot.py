"""The picture of the same training in several frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmicl_check.parity import EQUAL, NUDGED, Group, relative_difference
from fmicl_recipes.plots import COLOURS

#: Line styles of differences.
STYLES = {"float64": "-", "float32": "--"}
#: Line styles of curves that coincide: a wide and pale one, and dashes upon it, in turns.
LAYERS: tuple[dict[str, Any], ...] = (
    {"lw": 5.0, "alpha": 0.4},
    *({"ls": (5 * place, (5, 15))} for place in range(4)),
)
#: Equal numbers have no place on a logarithmic axis; they are drawn on its floor.
FLOOR = 1e-17


def plot_training(groups: Sequence[Group], path: Path) -> Path:
    """Draw the loss curves and, below them, their largest differences from the reference so far.

    Each method has a column, each loss two rows. Trainings by other optimisers are left out.

    Args:
        groups: trainings, one for every method, loss and dtype.
        path: path of the PNG.
    """
    groups = [g for g in groups if g.training.optimizer == "sgd"]
    methods = list(dict.fromkeys(g.training.method for g in groups))
    losses = list(dict.fromkeys(g.training.loss for g in groups))
    names = [n for n in dict.fromkeys(n for g in groups for n in g.curves) if n != NUDGED]
    colours = dict(zip(names, COLOURS, strict=False)) | {NUDGED: "0.6"}
    size = (3.6 * len(methods) + 0.6, 4.4 * len(losses) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2 * len(losses), len(methods), squeeze=False, sharex=True)
    for column, method in enumerate(methods):
        for row, loss in enumerate(losses):
            curves, differences = panels[2 * row : 2 * row + 2, column]
            found = [g for g in groups if (g.training.method, g.training.loss) == (method, loss)]
            _draw_curves(curves, found[0], names, colours)
            for group in found:
                _draw_differences(differences, group, colours)
            curves.set_title(f"{method}, {loss}")
        panels[-1, column].set_xlabel("step")
    for row in range(len(losses)):
        panels[2 * row, 0].set_ylabel("loss")
        panels[2 * row + 1, 0].set_ylabel("largest difference so far")
    figure.legend(
        handles=_legend(names, colours), loc="outside lower center", ncols=len(methods),
        frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
    return path


def _draw_curves(axes: Axes, group: Group, names: list[str], colours: dict[str, str]) -> None:
    for name, style in zip(names, LAYERS, strict=False):
        if name in group.curves:
            axes.plot(_steps(group.curves[name]), group.curves[name], color=colours[name], **style)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_differences(axes: Axes, group: Group, colours: dict[str, str]) -> None:
    reference = group.comparisons[0].reference
    for name in (NUDGED, *(c.framework for c in group.comparisons)):
        if name in group.curves and reference in group.curves:
            gap = relative_difference(group.curves[name], group.curves[reference])
            largest = np.maximum.accumulate(np.maximum(gap, FLOOR))
            axes.plot(
                _steps(gap), largest, color=colours[name], ls=STYLES[group.training.dtype], lw=1.2
            )
    if group.training.dtype == "float64":
        axes.axhline(EQUAL, color="0.3", lw=0.8, ls=":")
    axes.set(yscale="log", ylim=(FLOOR, 1.0))
    axes.spines[["top", "right"]].set_visible(False)


def _steps(values: np.ndarray) -> range:
    return range(1, len(values) + 1)


def _legend(names: list[str], colours: dict[str, str]) -> list[Line2D]:
    labels = dict(zip(names, names, strict=True))
    labels[names[0]] = f"{names[0]}, the reference"
    labels[NUDGED] = f"{names[0]}, weights one unit in the last place away"
    lines = [Line2D([], [], color=colours[name], label=label) for name, label in labels.items()]
    lines += [Line2D([], [], color="0.3", ls=ls, label=dtype) for dtype, ls in STYLES.items()]
    return [
        *lines,
        Line2D([], [], color="0.3", ls=":", lw=0.8, label=f"tolerance of float64, {EQUAL:g}"),
    ]
