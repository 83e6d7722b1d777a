"""Time of the JAX and TensorFlow losses on a CPU, compiled, against their own dense form.

The floor is the work no exact method can avoid: the three matrix products of "cross" alone, over
the same tiles, by NumPy. Everything is timed in turn in one run, forward and backward.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.steps import STEPS, views, worst_error
from benchmarks.timing import Row, interleaved, median_ratio, medians

#: Rows and columns of a tile on a CPU, in both backends.
TILE = 512


def floor(x: np.ndarray, y: np.ndarray) -> None:
    """The three matrix products of "cross" over the same tiles, by NumPy's BLAS."""
    grad_x, grad_y = np.zeros_like(x), np.zeros_like(y)
    for i in range(0, len(x), TILE):
        for j in range(0, len(y), TILE):
            products = x[i : i + TILE] @ y[j : j + TILE].T
            grad_x[i : i + TILE] += products @ y[j : j + TILE]
            grad_y[j : j + TILE] += products.T @ x[i : i + TILE]


def speed(framework: str, n: int, d: int, divergence: str, negatives: str, repeats: int) -> Row:
    """Times of floor, tiled and dense; their ratios; the error of the tiled form."""
    step = partial(STEPS[framework], n, d, negatives=negatives)
    times = interleaved(
        {
            "floor": partial(floor, *views(n, d)),
            "tiled": step(divergence=divergence, implementation="tiled"),
            "dense": step(divergence=divergence, implementation="dense"),
        },
        repeats,
    )
    row: Row = {"framework": framework, "n": n, "d": d}
    row |= {"divergence": divergence, "negatives": negatives} | medians(times)
    row["tiled_over_floor"] = median_ratio(times, "tiled", "floor")
    row["dense_over_tiled"] = median_ratio(times, "dense", "tiled")
    row["error"] = worst_error(framework, divergence, negatives)
    return row
