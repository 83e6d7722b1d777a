"""Time of the PyTorch loss on a CPU, against the dense form and against the floor.

The floor is the work no exact method can avoid: the three matrix products of "cross", alone, over
the same tiles (6 N^2 D floating-point operations). Everything is timed in turn in one run, forward
and backward, and the ratios are medians over the repetitions.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.steps import torch_step, views, worst_error
from benchmarks.timing import Row, interleaved, median_ratio, medians
from fmicl_core import FMICL
from fmicl_core.forms import tile_size
from fmicl_torch.ops import TORCH


def floor(x: torch.Tensor, y: torch.Tensor) -> None:
    """The three matrix products over the tiles of `fmicl_torch.tiled`."""
    tile = tile_size("cpu")
    with torch.no_grad():
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        for i in range(0, len(x), tile):
            for j in range(0, len(y), tile):
                products = x[i : i + tile] @ y[j : j + tile].T
                grad_x[i : i + tile].addmm_(products, y[j : j + tile])
                grad_y[j : j + tile].addmm_(products.T, x[i : i + tile])


def formulas(x: torch.Tensor, y: torch.Tensor, divergence: str) -> None:
    """Penalties and slopes of as many tiles, each of the same scores, which stay in the cache."""
    tile, objective = tile_size("cpu"), FMICL(divergence)
    a, _, c = objective.coefficients()
    scores = torch.addmm(torch.full((tile,), c), x[:tile], y[:tile].T, alpha=a)
    given = torch.empty_like(scores)
    for _ in range((-(-len(x) // tile)) ** 2):
        given.copy_(scores)  # formulas may work in place
        objective.pairwise.excess_total_and_slope(given, TORCH)


def speed(n: int, d: int, divergence: str, repeats: int, dense: bool) -> Row:
    """Times of floor, formulas, tiled "cross" and "anchor", dense "cross"; ratios; the error."""
    step = partial(torch_step, n, d, divergence=divergence)
    calls = {
        "floor": partial(floor, *(torch.from_numpy(v) for v in views(n, d))),
        "formulas": partial(formulas, *(torch.from_numpy(v) for v in views(n, d)), divergence),
        "cross": step(negatives="cross", implementation="tiled"),
        "anchor": step(negatives="anchor", implementation="tiled"),
    }
    if dense:
        calls["dense"] = step(negatives="cross", implementation="dense")
    times = interleaved(calls, repeats)
    row: Row = {"n": n, "d": d, "divergence": divergence} | medians(times)
    row["cross_over_floor"] = median_ratio(times, "cross", "floor")
    row["formulas_over_floor"] = median_ratio(times, "formulas", "floor")
    row["anchor_over_cross"] = median_ratio(times, "anchor", "cross")
    if dense:
        row["dense_over_cross"] = median_ratio(times, "dense", "cross")
    row["error"] = worst_error("torch", divergence, "cross")
    return row
