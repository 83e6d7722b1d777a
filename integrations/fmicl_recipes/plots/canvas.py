"""Figures as all pictures have them: panels in a row, colours, a caption, a file."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: The colours again and again, for many lines.
CYCLE = COLOURS * 4
#: Most panels in a row.
MOST = 6


def panels_in_a_row(
    count: int, width: float = 3.6, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, in several rows where they are many.

    Width and height in inches are those of a panel.
    """
    lines = -(-count // MOST)
    columns = -(-count // lines)
    size = max(width * columns, 4.8), height * lines
    figure = Figure(figsize=size, layout="constrained")
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in places[count:]:
        unused.set_visible(False)
    return figure, places[:count]


def without_frame(axes: Axes) -> None:
    """Leave the lines above and to the right of a panel out."""
    axes.spines[["top", "right"]].set_visible(False)


def caption(figure: Figure, text: str) -> None:
    """Write a small text below everything, in lines as long as the figure is wide."""
    lines = textwrap.fill(text, int(17 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7, color="0.35")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure, in the format that the path's suffix names."""
    figure.savefig(path, dpi=150)
    return path
