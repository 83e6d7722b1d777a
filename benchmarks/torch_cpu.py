"""Time and memory of the PyTorch loss on a CPU, against the dense form and against the floor.

The floor is the work no exact method can avoid: the three matrix products of "cross", alone, over
the same tiles (6 N^2 D floating-point operations). Everything is timed in turn in one run, forward
and backward, and the ratios are medians over the repetitions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from fmicl_core import FMICL, fmicl_reference
from fmicl_torch import fmicl_loss
from fmicl_torch.tiled import TILE

Row = dict[str, str | float | int]


def features(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Two views of `n` samples, unit rows of width `d`, that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    y = x + 0.5 * torch.randn(n, d, generator=generator, dtype=dtype)
    return tuple(torch.nn.functional.normalize(v).requires_grad_() for v in (x, y))


def floor(x: torch.Tensor, y: torch.Tensor) -> None:
    """The three matrix products over the tiles of `fmicl_torch.tiled`."""
    tile = TILE["cpu"]
    with torch.no_grad():
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        for i in range(0, len(x), tile):
            for j in range(0, len(y), tile):
                products = x[i : i + tile] @ y[j : j + tile].T
                grad_x[i : i + tile].addmm_(products, y[j : j + tile])
                grad_y[j : j + tile].addmm_(products.T, x[i : i + tile])


def step(x: torch.Tensor, y: torch.Tensor, **options: str) -> None:
    """One loss with its gradient."""
    x.grad = y.grad = None
    fmicl_loss(x, y, **options).backward()  # type: ignore[arg-type]


def seconds(call: Callable[[], None]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Times of each call, taken in turn so that all see the same machine; one warm-up each."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def median_ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the repetitions of time[above] / time[below]."""
    pairs = zip(times[above], times[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def worst_error(divergence: str, negatives: str) -> float:
    """Largest relative error of loss and gradient, tiled float32 against the float64 reference."""
    x, y = features(1030, 64)
    options = {"divergence": divergence, "negatives": negatives}
    loss = fmicl_loss(x, y, implementation="tiled", **options)  # type: ignore[arg-type]
    loss.backward()
    truth = fmicl_reference(x.detach().numpy(), y.detach().numpy(), FMICL(**options))  # type: ignore[arg-type]
    errors = [abs(loss.item() - truth.loss) / abs(truth.loss)]
    for got, want in ((x.grad, truth.grad_x), (y.grad, truth.grad_y)):
        assert got is not None
        errors.append(abs(got.numpy() - want).max() / abs(want).max())
    return float(max(errors))


def speed(n: int, d: int, divergence: str, repeats: int, dense: bool) -> Row:
    """Times of floor, tiled "cross" and "anchor", and dense "cross"; their ratios; the error."""
    x, y = features(n, d)
    calls: dict[str, Callable[[], None]] = {
        "floor": lambda: floor(x, y),
        "cross": lambda: step(
            x, y, divergence=divergence, negatives="cross", implementation="tiled"
        ),
        "anchor": lambda: step(
            x, y, divergence=divergence, negatives="anchor", implementation="tiled"
        ),
    }
    if dense:
        calls["dense"] = lambda: step(
            x, y, divergence=divergence, negatives="cross", implementation="dense"
        )
    times = interleaved(calls, repeats)
    row: Row = {"n": n, "d": d, "divergence": divergence}
    row |= {f"{name}_s": round(statistics.median(t), 4) for name, t in times.items()}
    row["cross_over_floor"] = round(median_ratio(times, "cross", "floor"), 2)
    row["anchor_over_cross"] = round(median_ratio(times, "anchor", "cross"), 2)
    if dense:
        row["dense_over_cross"] = round(median_ratio(times, "dense", "cross"), 2)
    row["error"] = float(f"{worst_error(divergence, 'cross'):.1e}")
    return row
