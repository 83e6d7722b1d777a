"""Pictures of runs, by matplotlib: loss curves, pair distances, t-SNE maps, bars of accuracies.

`charts.py` and `embedding.py` draw one picture each, on what `canvas.py` gives them; `draw.py`
draws all pictures of one run or several.
"""

from fmicl_recipes.plots.canvas import COLOURS
from fmicl_recipes.plots.charts import (
    accuracy_bars,
    distance_histogram,
    divergence_curves,
    loss_curves,
    sweep_curve,
)
from fmicl_recipes.plots.draw import FILES, draw_each, draw_runs
from fmicl_recipes.plots.embedding import embedding_map

__all__ = [
    "COLOURS",
    "FILES",
    "accuracy_bars",
    "distance_histogram",
    "divergence_curves",
    "draw_each",
    "draw_runs",
    "embedding_map",
    "loss_curves",
    "sweep_curve",
]
