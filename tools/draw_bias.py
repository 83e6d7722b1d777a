"""Draw the bias of small batches, docs/images/gradient_bias.png: `python tools/draw_bias.py`.

The gradient in a linear encoder of handwritten digits, averaged over many small batches of n
samples, against that of the one batch of all 512: f-MICL's is the same at every n, as far as so
many batches can tell, and InfoNCE's is not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from fmicl_torch import fmicl_loss, info_nce_loss

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "gradient_bias.png"
SAMPLES, WIDTH, SIZES = 512, 16, (4, 8, 16, 32, 64, 128, 256)
#: Times that the samples are dealt out anew to batches of n.
DEALS = 300
Loss = Callable[..., torch.Tensor]
#: Loss, colour, marker and its size by name; all of them take every pair of different samples.
LOSSES: dict[str, tuple[Loss, str, str, int]] = {
    "InfoNCE, temperature 0.1": (partial(info_nce_loss, temperature=0.1), "#b3412b", "s", 6),
    "InfoNCE, temperature 0.5": (partial(info_nce_loss, temperature=0.5), "#e39a5b", "D", 6),
    "f-MICL, KL": (partial(fmicl_loss, divergence="kl", negatives="all"), "#2f7f5f", "o", 11),
    "f-MICL, JS": (partial(fmicl_loss, divergence="js", negatives="all"), "#3a6ea5", "^", 5),
}


def setting() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a random encoder, and two noisy views of digits, (2, 512, 64), in float64."""
    rng = np.random.default_rng(0)
    images = load_digits().data[:SAMPLES] / 16.0
    views = images + 0.2 * rng.normal(size=(2, *images.shape))
    weights = rng.normal(size=(images.shape[1], WIDTH)) / images.shape[1] ** 0.5
    return torch.from_numpy(weights), torch.from_numpy(views)


def biases(loss: Loss) -> NDArray[np.float64]:
    """By batch size: the distance from the whole batch's gradient, and what chance makes of it.

    Both are relative to the length of that gradient, (sizes, 2).
    """
    weights, views = setting()

    def of(weights: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(x @ weights, y @ weights, implementation="dense")

    gradient = torch.func.grad(of)
    whole = gradient(weights, *views)
    each = torch.func.vmap(gradient, in_dims=(None, 0, 0))
    draws, rows = torch.Generator().manual_seed(0), []
    for n in SIZES:
        means = []
        for _ in range(DEALS):
            order = torch.randperm(SAMPLES, generator=draws)
            x, y = views[:, order].unflatten(1, (-1, n))
            means.append(each(weights, x, y).mean(dim=0))
        deals = torch.stack(means)
        off = (deals.mean(dim=0) - whole).norm()
        chance = (deals.var(dim=0).sum() / DEALS).sqrt()
        rows.append([(off / whole.norm()).item(), (chance / whole.norm()).item()])
    return np.array(rows)


def draw(target: Path = PICTURE) -> None:
    """A line for each loss, and what chance would make of a gradient without bias."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(7, 4.4), constrained_layout=True)
    for name, (loss, colour, marker, points) in LOSSES.items():
        off, chance = biases(loss).T
        panel.loglog(SIZES, off, f"{marker}-", color=colour, label=name, markersize=points)
        panel.loglog(SIZES, chance, color=colour, linestyle=":", linewidth=1)
        print(
            name, *(f"{n}: {a:.1e} ({b:.0e})" for n, a, b in zip(SIZES, off, chance, strict=True))
        )
    panel.plot([], [], color="grey", linestyle=":", linewidth=1,
               label="what chance makes of no bias, for each")  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_xticks(SIZES, [str(n) for n in SIZES])
    panel.minorticks_off()
    panel.set_xlabel("samples in a small batch, n")
    panel.set_ylabel("|mean gradient - whole gradient| / |whole gradient|")
    panel.set_title(f"Gradient of many small batches against that of all {SAMPLES}", fontsize=11)
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.25)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    figure.savefig(target, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    draw()
