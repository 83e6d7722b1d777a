"""Draw the pictures of docs/mathematics.md: `python tools/draw_mathematics.py`.

docs/images/gradient_weights.png: how hard a pair pulls or pushes, by its angle, and divergence.
docs/images/density_ratio.png: the densities whose ratio the f-Gaussian is, in 3 and in 128
dimensions. Scores, penalties and kernels are those of the specification.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fmicl_core import DIVERGENCES, FMICL, Gaussian
from fmicl_recipes.plots.canvas import COLOURS, without_frame

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
ANGLES = np.linspace(0.0, 180.0, 361)
COSINES = np.linspace(-1.0, 1.0, 4001)[1:-1]
#: The default kernel, and that of the paper's sentences.
KERNELS = {"1/(2 sigma²) = 1": Gaussian(0.5), "1/(2 sigma²) = 20": Gaussian(0.025)}
WIDTHS = (3, 128)
Values = NDArray[np.float64]


def weights(name: str) -> tuple[Values, Values]:
    """Slopes in L of the score and of the penalty of a pair of unit rows, by their angle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two of them are known to collapse
        objective = FMICL(name)
    a, _, c = objective.coefficients()
    z = a * np.cos(np.radians(ANGLES)) + c
    return objective.pairwise.positive_slope(z), objective.pairwise.excess_and_slope(z)[1]


def densities(kernel: Gaussian, width: int) -> tuple[Values, Values]:
    """Densities of the cosine of two independent rows, and of a positive pair as the kernel says.

    Rows are uniform on the unit sphere of R^width.
    """
    a, _, c = FMICL("kl", kernel).coefficients()
    log_independent = 0.5 * (width - 3) * np.log1p(-(COSINES**2))
    step = COSINES[1] - COSINES[0]
    curves = [np.exp(v - v.max()) for v in (log_independent, log_independent + a * COSINES + c)]
    independent, positive = (v / (v.sum() * step) for v in curves)
    return independent, positive


def draw_weights(target: Path = IMAGES / "gradient_weights.png") -> None:
    """A panel for positive and one for negative pairs, a line a divergence."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for i, name in enumerate(DIVERGENCES):
        dashed = "--" if i >= len(COLOURS) else "-"  # as in divergences.png
        for panel, values in zip(panels, weights(name), strict=True):
            panel.semilogy(ANGLES, values, dashed, color=COLOURS[i % len(COLOURS)], label=name,
                           linewidth=1.8)  # fmt: skip
    titles = "pull of a positive pair", "push of a negative pair, before alpha"
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=11, fontweight="bold")
        panel.set(xlabel="angle between the two rows, degrees", ylim=(2e-4, 2e3))
        panel.set_xticks(range(0, 181, 30))
        panel.grid(alpha=0.25)
        without_frame(panel)
    panels[0].set_ylabel("weight of the pair in the gradient")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(target, dpi=120, metadata={"Software": None})


def draw_ratio(target: Path = IMAGES / "density_ratio.png") -> None:
    """Above the densities of the cosine, below their ratio, a column a width of the features."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    panels = figure.subplots(2, len(WIDTHS), sharex=True, sharey="row", squeeze=False)
    for column, width in zip(panels.T, WIDTHS, strict=True):
        above, below = column
        for colour, (name, kernel) in zip(COLOURS, KERNELS.items(), strict=False):
            independent, positive = densities(kernel, width)
            above.plot(COSINES, positive, color=colour, label=f"positive pairs, {name}")
            seen = independent > 1e-12 * independent.max()
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = positive[seen] / independent[seen]
            below.semilogy(COSINES[seen], ratio, color=colour)
        above.fill_between(COSINES, independent, color="0.8", label="independent pairs")
        below.axhline(1.0, color="0.5", linewidth=1, linestyle=":")
        above.set_title(f"features of width {width}", fontsize=11, fontweight="bold")
        below.set_xlabel("cosine x . y of the pair")
        for panel in column:
            panel.grid(alpha=0.25)
            without_frame(panel)
    panels[0, 0].set_ylabel("density of the cosine")
    panels[0, 0].set_ylim(0.0, 6.5)  # in width 3 the sharper kernel goes up to 40
    panels[1, 0].set_ylabel("ratio r of the two densities")
    panels[1, 0].set_ylim(1e-6, 1e6)
    panels[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    figure.savefig(target, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    draw_weights()
    draw_ratio()
