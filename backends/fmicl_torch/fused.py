"""When the Triton routine is used, with which tiles, and how it is launched.

It computes what `fmicl_torch.tiled` computes, without leaving the chip between products;
`fused_triton.block_sums` states the naive code it equals. It has been compiled for GPUs and run in
Triton's interpreter, but not yet run on a GPU.
"""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F

from fmicl_core.forms import FUSED
from fmicl_core.fused import (
    LEAST_CAPABILITY,
    Tiles,
    parts_for,
    refusal,
    refused,
    tiles_for,
    too_wide,
    weight_tiles,
    writes_weights,
)
from fmicl_torch.fused_formulas import triton_formulas
from fmicl_torch.fused_launch import Launch, Side, Sums, constants, facts, interpreted, tf32_allowed
from fmicl_torch.fused_numbers import tile_ranges, visited_tiles, weights_by_number
from fmicl_torch.fused_weights import has_wide_products, launch_weights
from fmicl_torch.registry import pairwise_of


def fused_dtype(
    implementation: str, text: str, x: torch.Tensor, dtype: torch.dtype, positives: bool = False
) -> str:
    """The dtype of the fused products, or "" where no fused routine takes such features.

    Args:
        implementation: name of a form, or "auto", which leaves plain float32 to the tiled form.
        text: text of the specification in the registry.
        x: features as given to the loss.
        dtype: dtype that x, y and the bank are promoted to.
        positives: whether positive pairs are to be summed as well.

    Raises:
        ValueError: `implementation` is "fused" and there is none; says why.
    """
    if implementation not in ("auto", FUSED):
        return ""
    name = str(dtype).removeprefix("torch.")
    why = _refusal(text, x.device.type, name, implementation == FUSED, positives)
    why = why or too_wide(x.shape[1])
    if why and implementation == FUSED:
        raise refused(why)
    return "" if why else name


@torch.compiler.assume_constant_result
def _refusal(text: str, device: str, dtype: str, insisted: bool, positives: bool) -> str:
    """Why features of this kind do not go through the fused routine, or ""."""
    capability = LEAST_CAPABILITY if interpreted() else _capability(device)
    why = refusal(device, capability, dtype)
    if why:
        return why
    if not _has_triton():
        return "The fused form needs Triton, which is not installed."
    if dtype == "float32" and not insisted and not tf32_allowed():
        return "cuBLAS is better than Triton at products without tensor cores."
    try:
        for positive in (False, True) if positives else (False,):
            triton_formulas(pairwise_of(text), positive)
    except TypeError as error:
        return f"The formulas cannot be written in Triton ({error})."
    return ""


def _capability(device: str) -> tuple[int, int] | None:
    if device != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability()


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def fused_sums(
    left: torch.Tensor, right: torch.Tensor | None, launch: Launch, grad: bool, columns: bool,
    numbers: tuple[torch.Tensor, torch.Tensor] | None = None, weights: torch.Tensor | None = None,
    constant: torch.Tensor | None = None,
) -> Sums:  # fmt: skip
    """The sums of one block in one launch, or in two where atomics must not be used.

    Atomic additions come in any order, so that gradients differ between runs in their last digits.
    Without them every program owns rows of the gradient, which takes a launch for either side, the
    scores computed twice (8 N^2 D flops instead of 6), and for a symmetric block all of its tiles
    (4 N^2 D instead of 3).

    Args:
        left: (N, D) features, float32.
        right: (K, D) features, float32, or None for left.
        launch: settings that all launches of a block share.
        grad: whether gradients are wanted at all.
        columns: whether the gradient in right is wanted.
        numbers: numbers (N,) and (K,) of the rows on either side, int32; pairs with equal numbers
            count as 0. None: all pairs count.
        weights: weights (N,) of the rows of left, equal for equal numbers. If given, pairs with
            equal numbers are all that count, as positive pairs: their scores, times the weight.
        constant: constant of z in place of that of the similarity, a scalar; or None.
    """
    dtype = str(launch.dtype).removeprefix("torch.")
    d, memory = left.shape[1], facts(left)[1]
    outside = weights is None and has_wide_products() and writes_weights(d, dtype)
    tiles = (
        weight_tiles(memory) if outside
        else tiles_for(d, dtype, tf32_allowed(), memory, launch.atomic and grad)
    )  # fmt: skip
    both = grad and columns and right is not None
    own, others = numbers or (None, None)
    if numbers is not None:
        launch = launch._replace(pairs="different" if weights is None else "equal")
    b, unit = launch.pairwise.coefficients()[1], launch.formulas.unit
    if b or constant is not None:
        launch = launch._replace(bias="rows" if b else "constant")

    def side(rows: torch.Tensor, numbers: torch.Tensor | None) -> Side:
        size = max(tiles.rows, tiles.columns)  # powers of two: either divides the larger
        padded = _padded(rows, launch.dtype, size, tiles.width)
        missing = (0, len(padded) - len(rows))
        bias = rows.new_empty(0)
        if b:
            bias = F.pad(unit * b * rows.square().sum(dim=1), missing)
        if constant is not None:
            bias = (unit * constant).reshape(1)
        numbers = None if numbers is None else F.pad(numbers, missing)
        return Side(len(rows), padded, bias, numbers)

    x = side(left, own)
    y = x if right is None else side(right, others)
    launched = launch_weights if outside else _launch
    totals, grad_x, mass_x, grad_y, mass_y = launched(
        x, y, launch, tiles, grad, both and (launch.atomic or outside)
    )
    if both and not launch.atomic and not outside:
        _, grad_y, mass_y, _, _ = _launch(y, x, launch, tiles, True, False)
    if weights is not None:  # equal for equal numbers, so that a row's is that of all its pairs
        totals = totals * weights
        _weigh(weights, grad_x, mass_x)
        if both and own is not None and others is not None:
            _weigh(weights_by_number(others, own, weights), grad_y, mass_y)
    total = totals.sum(dtype=torch.float64)
    grad_x, grad_y = (g[..., : left.shape[1]].contiguous() for g in (grad_x, grad_y))
    # A symmetric block has either order of a pair in the mass, as in the total.
    slope = None if constant is None or not grad else mass_x.sum(dtype=torch.float64)
    return Sums(total, grad_x, grad_y, mass_x if b else None, mass_y if b else None, slope)


def _padded(rows: torch.Tensor, dtype: torch.dtype, size: int, width: int) -> torch.Tensor:
    """The rows in the dtype, contiguous; zeros fill them up to multiples of a size and a width."""
    (n, d), n_more, d_more = rows.shape, -len(rows) % size, -rows.shape[1] % width
    if not n_more and not d_more:
        return rows.to(dtype).contiguous()
    padded = rows.new_zeros(n + n_more, d + d_more, dtype=dtype)
    padded[:n, :d] = rows
    return padded


def _launch(
    left: Side, right: Side, launch: Launch, tiles: Tiles, grad: bool, columns: bool
) -> tuple[torch.Tensor, ...]:
    """Totals of the rows of left, gradient, mass; those of right too if `columns` or it is left."""
    from fmicl_torch import fused_triton as triton  # imports Triton

    x, y, symmetric, biased = left.rows, right.rows, right is left, launch.bias != "none"
    d, n, k = x.shape[1], left.length, right.length
    triangle = symmetric and (launch.atomic or not grad)
    atomic = grad and launch.atomic
    columns = columns or (triangle and grad)
    chunks = d // tiles.width
    parts = parts_for(facts(x)[0], n, k, chunks, tiles)
    span = -(-k // (tiles.columns * parts)) * tiles.columns
    grid = -(-n // tiles.rows), parts, chunks if grad else 1
    totals = left.bias.new_empty(parts, grid[0] * tiles.rows)
    lead = (len(x),) if atomic or not grad else totals.shape
    new = totals.new_zeros if atomic else totals.new_empty
    grad_x = new(*lead, d) if grad else totals.new_empty(0)
    mass_x = new(*lead) if grad and biased else totals.new_empty(0)
    grad_y, mass_y = grad_x, mass_x
    if columns and not symmetric:
        grad_y = totals.new_zeros(y.shape)
        mass_y = totals.new_zeros(len(y) if launch.bias == "rows" else 0)
    a, _, c = (launch.formulas.unit * x for x in launch.pairwise.coefficients())
    with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
        triton.block_sums[grid](
            x, y, left.bias, right.bias, *_places(left, right, launch.pairs, tiles),
            totals, grad_x, grad_y, mass_x, mass_y, n, k, span, a, c,
            **constants(launch.pairwise, launch.pairs, x.dtype, chunks, tiles),
            TRIANGLE=triangle, SKIPS=launch.skips_diagonal, GRAD=grad, ATOMIC=atomic,
            COLUMNS=columns, BIAS=launch.bias, num_warps=tiles.warps, num_stages=tiles.stages,
            maxnreg=tiles.registers,
        )  # fmt: skip
    if grad and not atomic:
        grad_x = grad_x.sum(dim=0) if parts > 1 else grad_x[0]
        mass_x = mass_x.sum(dim=0) if biased else mass_x
    if triangle:  # rows alone know of one order of a pair
        totals = 2.0 * totals
        mass_x = 2.0 * mass_x if launch.bias == "constant" else mass_x
    totals = totals[:, :n]
    return totals, grad_x[:n], mass_x[:n], grad_y[:k], mass_y[:k]


def _places(left: Side, right: Side, pairs: str, tiles: Tiles) -> tuple[torch.Tensor | None, ...]:
    """What `block_sums` has to know of the numbers of the rows."""
    if left.numbers is None or right.numbers is None:
        return (None,) * 5
    own, others = left.numbers[: left.length], right.numbers[: right.length]
    ranges = tile_ranges(own, tiles.rows), tile_ranges(others, tiles.columns)
    visited = visited_tiles(*ranges) if pairs == "equal" else None
    return left.numbers, right.numbers, *ranges, visited


def _weigh(weights: torch.Tensor, grad: torch.Tensor, mass: torch.Tensor) -> None:
    """Scale the gradient and the mass of rows, or what is empty of them, by the rows' weights."""
    if grad.numel():
        grad.mul_(weights[:, None])
    if mass.numel():
        mass.mul_(weights)
