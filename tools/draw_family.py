"""Draw score and penalty of well-known losses beside the six divergences: docs/images/family.png.

    python tools/draw_family.py

Every curve is that of the specification, at the defaults of the loss, over the cosine of a pair.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmicl_core import FMICL, Cosine
from fmicl_core.family import FAMILY_DEFAULTS as FAMILY
from fmicl_core.family import KernelContrast, Sigmoid
from fmicl_core.related import RELATED_DEFAULTS

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "family.png"
COSINES = np.linspace(-1.0, 1.0, 401)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def of_objective(objective: FMICL) -> Curve:
    """Score and penalty of a pair of unit rows, by their cosine."""
    a, _, c = objective.coefficients()
    z = a * COSINES + c
    return objective.positive(z), objective.negative(z)


def softmax(temperature: float) -> Curve:
    """Score of a softmax, and what a pair adds to the sum inside of its logarithm."""
    s = COSINES / temperature
    return s, np.exp(s)


DIVERGENCES = {
    name: of_objective(FMICL(name))
    for name in ("kl", "js", "pearson", "squared_hellinger", "tsallis", "vlc")
}
KNOWN = {
    f"SigLIP, scale {FAMILY.siglip_scale:g}": of_objective(
        FMICL(Sigmoid(), logit_scale=FAMILY.siglip_scale, logit_bias=FAMILY.siglip_bias)
    ),
    "Deep InfoMax": of_objective(FMICL(Sigmoid(), logit_scale=1.0, logit_bias=0.0)),
    "NWJ": of_objective(FMICL("kl", Cosine(1.0))),
    "KCL": of_objective(FMICL(KernelContrast(), FAMILY.kcl_similarity)),
    "spectral": (2.0 * COSINES, COSINES**2),
    f"InfoNCE, temperature {RELATED_DEFAULTS.temperature:g}": softmax(RELATED_DEFAULTS.temperature),
    f"DCL, temperature {FAMILY.dcl_temperature:g}": softmax(FAMILY.dcl_temperature),
}
#: Their penalties stand in a sum inside of a logarithm.
INSIDE = ("InfoNCE", "DCL")


def scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 at its least to 1 at its largest; constants and factors of a term mean nothing."""
    return (values - values.min()) / (values.max() - values.min())


def draw(target: Path = PICTURE) -> None:
    """Four panels: score and penalty, of the divergences and of the known losses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, 2, figsize=(10, 7), sharex=True, sharey=True, constrained_layout=True
    )
    groups = (("the six divergences, f-Gaussian", DIVERGENCES), ("well-known losses", KNOWN))
    for column, (title, curves) in enumerate(groups):
        panels[0, column].set_title(title, fontsize=11, fontweight="bold")
        for i, (name, terms) in enumerate(curves.items()):
            for panel, values, penalty in zip(panels[:, column], terms, (False, True), strict=True):
                inside = penalty and name.startswith(INSIDE)
                panel.plot(COSINES, scaled(values), label=name, color=f"C{i}", linewidth=1.8,
                           linestyle="--" if inside else "-")  # fmt: skip
        panels[0, column].legend(fontsize=8, frameon=False, loc="upper left")
        panels[1, column].set_xlabel("cosine x . y of the pair")
    panels[0, 0].set_ylabel("score of a positive pair")
    panels[1, 0].set_ylabel("penalty of a negative pair")
    panels[1, 1].text(
        0.27, 0.95, "dashed: inside of a logarithm\nof the sum over negatives",
        transform=panels[1, 1].transAxes, va="top", fontsize=8,
    )  # fmt: skip
    panels[0, 1].text(
        0.97, 0.05, "NWJ, spectral, InfoNCE and DCL\nare one straight line here",
        transform=panels[0, 1].transAxes, ha="right", fontsize=8,
    )  # fmt: skip
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    draw()
