"""The Triton routine of `fmicl_torch.fused`: sums and gradients of one block in a pass over tiles.

Imported only where it is used, because it needs Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmicl_torch.fused_functions import INTERPRETED, compound, log1p


@triton.jit
def places(  # type: ignore[no-untyped-def]
    matrix, first, SIZE: tl.constexpr, column, WIDTH: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """Pointers to SIZE rows and WIDTH columns of a matrix of rows of D numbers side by side."""
    # Few registers: a number for all, which can be large, and offsets that are constants.
    inside = tl.arange(0, SIZE)[:, None] * D + tl.arange(0, WIDTH)[None, :]
    return matrix + (first.to(tl.int64) * D + column) + inside


@triton.jit
def product(x, y, z, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return z + x @ y in float32."""
    if INTERPRETED:  # which takes bfloat16 for the integers that it keeps it in
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, z, input_precision=PRECISION)


@triton.jit
def counted(  # type: ignore[no-untyped-def]
    rows, cols, n, k, numbers, others,
    PAIRS: tl.constexpr, TRIANGLE: tl.constexpr, SKIPS: tl.constexpr,
):  # fmt: skip
    """Which pairs of a tile count; arguments as for `block_sums`."""
    counts = (rows < n)[:, None] & (cols < k)[None, :]
    if TRIANGLE:
        counts = counts & (rows[:, None] < cols[None, :])
    elif SKIPS:
        counts = counts & (rows[:, None] != cols[None, :])
    if PAIRS != "all":
        others = tl.load(others + cols)
        if PAIRS == "equal":
            counts = counts & (numbers[:, None] == others[None, :])
        else:
            counts = counts & (numbers[:, None] != others[None, :])
    return counts


@triton.jit
def row_sums(  # type: ignore[no-untyped-def]
    addend, factor, SUMS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Sums of the rows of (addend + log1p(factor)), or of one of them by SUMS."""
    TERMS: tl.constexpr = min(16, COLS // 8)  # a thread of Hopper's has every 8th column
    total = tl.zeros((ROWS,), tl.float32)
    if SUMS != "factors":
        total += tl.sum(addend, 1)
    if SUMS != "addends":  # logarithms cost much, so they are taken of products
        tall = tl.reshape(factor, (ROWS, TERMS, COLS // TERMS))
        total += tl.sum(log1p(tl.reduce(tall, 1, compound)), 1)
    return total


@triton.jit
def evaluated(  # type: ignore[no-untyped-def]
    z, edge, rows, cols, n, k, numbers, others,
    EVALUATE: tl.constexpr, SUMS: tl.constexpr, VANISHES: tl.constexpr, PAIRS: tl.constexpr,
    TRIANGLE: tl.constexpr, SKIPS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Sums of the rows of a tile, and the weights of its pairs; 0 for pairs that do not count.

    Args:
        z: number of every pair.
        edge: whether there may be pairs that do not count.
        numbers: numbers of the tile's rows, or None.
        others: numbers of all columns, or None.
        Other arguments as for `block_sums`.
    """
    # One tile to mask, in place of two or three, saves registers. Triton needs both ifs.
    if VANISHES:  # noqa: SIM102
        if edge:
            counts = counted(rows, cols, n, k, numbers, others, PAIRS, TRIANGLE, SKIPS)
            z = tl.where(counts, z, float("-inf"))
    addend, factor, weight = EVALUATE(z)
    if not VANISHES:  # noqa: SIM102
        if edge:
            counts = counted(rows, cols, n, k, numbers, others, PAIRS, TRIANGLE, SKIPS)
            if SUMS != "factors":
                addend = tl.where(counts, addend, 0.0)
            if SUMS != "addends":
                factor = tl.where(counts, factor, 0.0)
            weight = tl.where(counts, weight, 0.0)
    return row_sums(addend, factor, SUMS, ROWS, COLS), weight


@triton.jit
def block_sums(  # type: ignore[no-untyped-def]
    left, right, left_bias, right_bias, left_numbers, right_numbers, left_ranges, right_ranges,
    visited, totals, grad_left, grad_right, mass_left, mass_right, n, k, span, a, c,
    EVALUATE: tl.constexpr, SUMS: tl.constexpr, VANISHES: tl.constexpr, PAIRS: tl.constexpr,
    TRIANGLE: tl.constexpr, SKIPS: tl.constexpr, GRAD: tl.constexpr, ATOMIC: tl.constexpr,
    COLUMNS: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    WIDTH: tl.constexpr, CHUNKS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums over the pairs (left_i, right_j), one program per ROWS rows, part of the columns, chunk.

    z = a (left @ right.T) + left_bias[:, None] + right_bias + c        # biases by BIAS
    addend, factor, weight = EVALUATE(z)                                # 0 for pairs left out
    totals = (addend + log1p(factor)).sum(dim=1)                        # or one of them, by SUMS
    grad_left, mass_left = weight @ right, weight.sum(dim=1)            # with GRAD
    grad_right, mass_right = weight.T @ left, weight.sum(dim=0)         # with COLUMNS

    The programs of part p look at the columns [p span, (p + 1) span) and those of chunk q write the
    q-th WIDTH columns of the gradients. Without ATOMIC every part writes a sum of its own.

    Rows beyond n and k fill the last tiles: zeros, which are loaded and added to like all others.

    Args:
        left, right: features (n, D) and (k, D), D = WIDTH CHUNKS, contiguous, in the dtype of
            the first product.
        left_bias, right_bias: numbers (n,) and (k,) to add to z where BIAS is "rows"; one number
            where it is "constant", whose grad_right has no mass_right; float32, as are all sums.
        left_numbers, right_numbers: numbers (n,) and (k,) of the rows, int32. With PAIRS "all" they
            and the next three are None.
        left_ranges, right_ranges: least and largest number in every tile, (2, tiles).
        visited: first tile of columns and one past the last in which a tile of rows may have pairs
            with equal numbers, (2, tiles of rows); None unless PAIRS is "equal".
        totals: sums of a row's values, (parts, n).
        grad_left, mass_left: sums (n, D) and (n,), zeros at first, with ATOMIC; else (parts, n, D)
            and (parts, n).
        grad_right, mass_right: sums (k, D) and (k,), zeros at first. With TRIANGLE, those of left.
        SUMS: what of a pair is added up: "addends", logarithms of "factors", or "both".
        VANISHES: whether a pair with z = -infinity adds nothing.
        PAIRS: which pairs count by their numbers: "all", "different" or "equal".
        TRIANGLE: whether right is left, and only the pairs i < j count.
        SKIPS: whether pairs with i = j are left out.
        OPERAND: dtype in which the weights enter the second product.
        PRECISION: precision of products of float32 numbers, "ieee" or "tf32".
    """
    D: tl.constexpr = WIDTH * CHUNKS
    block, part, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows = block * ROWS + tl.arange(0, ROWS)
    own = chunk == 0  # of the chunks, whose sums over pairs are all the same, one writes them
    first = part * span
    last = tl.minimum(first + span, k)
    if TRIANGLE:
        first = tl.maximum(first, block * ROWS // COLS * COLS)
    if PAIRS == "equal":
        first = tl.maximum(first, tl.load(visited + block) * COLS)
        last = tl.minimum(last, tl.load(visited + tl.cdiv(n, ROWS) + block) * COLS)
    tiles = tl.cdiv(tl.maximum(last - first, 0), COLS)
    if BIAS == "constant":
        c += tl.load(left_bias)
    mine = tl.load(places(left, block * ROWS, ROWS, chunk * WIDTH, WIDTH, D))
    numbers = None
    if PAIRS != "all":
        numbers = tl.load(left_numbers + rows)
        least = tl.load(left_ranges + block)
        largest = tl.load(left_ranges + tl.cdiv(n, ROWS) + block)
    total = tl.zeros((ROWS,), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    grad = tl.zeros((ROWS, WIDTH), tl.float32)
    for turn in range(tiles):
        step = turn
        if COLUMNS:  # programs that run together add to different columns
            step = (turn + block) % tiles
        start = first + step * COLS
        visit = True
        if PAIRS != "all":
            tile = right_ranges + start // COLS
            meets = (tl.load(tile) <= largest) & (tl.load(tile + tl.cdiv(k, COLS)) >= least)
            if PAIRS == "equal":
                visit = meets
        if visit:
            cols = start + tl.arange(0, COLS)
            theirs = tl.load(places(right, start, COLS, chunk * WIDTH, WIDTH, D))
            if CHUNKS == 1:
                z = product(mine, tl.trans(theirs), None, PRECISION)
            else:
                z = tl.zeros((ROWS, COLS), tl.float32)
                for piece in range(CHUNKS):
                    x = tl.load(places(left, block * ROWS, ROWS, piece * WIDTH, WIDTH, D))
                    y = tl.load(places(right, start, COLS, piece * WIDTH, WIDTH, D))
                    z = product(x, tl.trans(y), z, PRECISION)
            z = a * z + c
            if BIAS == "rows":
                z += tl.load(left_bias + rows)[:, None]
                z += tl.load(right_bias + cols)[None, :]
            edge = (start + COLS > k) | (block * ROWS + ROWS > n)
            if SKIPS:
                edge = edge | ((start < block * ROWS + ROWS) & (start + COLS > block * ROWS))
            if PAIRS != "all":
                edge = edge | meets
            sums, weight = evaluated(
                z, edge, rows, cols, n, k, numbers, right_numbers,
                EVALUATE, SUMS, VANISHES, PAIRS, TRIANGLE, SKIPS, ROWS, COLS,
            )  # fmt: skip
            total += sums
            if GRAD:
                operand = weight.to(OPERAND)
                grad = product(operand, theirs.to(OPERAND), grad, PRECISION)
                if BIAS != "none":
                    # Of the same rounded weights, because the two parts of a gradient cancel.
                    weight = operand.to(tl.float32)
                    mass += tl.sum(weight, 1)
                if COLUMNS:
                    update = product(tl.trans(operand), mine.to(OPERAND), None, PRECISION)
                    at = places(grad_right, start, COLS, chunk * WIDTH, WIDTH, D)
                    tl.atomic_add(at, update, sem="relaxed")
                    if BIAS == "rows":
                        tl.atomic_add(mass_right + cols, tl.sum(weight, 0), own, sem="relaxed")
    line = (part * tl.num_programs(0) + block) * ROWS
    tl.store(totals + line + tl.arange(0, ROWS), total, own)
    if GRAD:
        if ATOMIC:
            at = places(grad_left, block * ROWS, ROWS, chunk * WIDTH, WIDTH, D)
            tl.atomic_add(at, grad, sem="relaxed")
            if BIAS != "none":
                tl.atomic_add(mass_left + rows, mass, own, sem="relaxed")
        else:
            tl.store(places(grad_left, line, ROWS, chunk * WIDTH, WIDTH, D), grad)
            if BIAS != "none":
                tl.store(mass_left + line + tl.arange(0, ROWS), mass, own)


@triton.jit
def block_weights(  # type: ignore[no-untyped-def]
    left, right, left_bias, right_bias, left_numbers, right_numbers, totals, weights,
    n, k, first_row, first_column, stride, a, c,
    EVALUATE: tl.constexpr, SUMS: tl.constexpr, VANISHES: tl.constexpr, PAIRS: tl.constexpr,
    TRIANGLE: tl.constexpr, SKIPS: tl.constexpr, GRAD: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, CHUNKS: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights of the pairs of one tile a program, for products outside; as for `block_sums`.

    Args:
        left, right, left_bias, right_bias, left_numbers, right_numbers, n, k, a, c: of the whole
            block, as for `block_sums`; WIDTH is a piece of the width here, not of a gradient.
        totals: sums of a row's values by tiles of columns, (tiles, rows).
        weights: weights of the pairs with GRAD, of `stride` columns, in the dtype OPERAND.
        first_row, first_column: where the pairs begin that these are of.
        PAIRS: which pairs count by their numbers: "all" or "different".
    """
    D: tl.constexpr = WIDTH * CHUNKS
    block, tile = tl.program_id(0), tl.program_id(1)
    top, start = first_row + block * ROWS, first_column + tile * COLS
    rows, cols = top + tl.arange(0, ROWS), start + tl.arange(0, COLS)
    z = tl.zeros((ROWS, COLS), tl.float32)
    for piece in range(CHUNKS):
        x = tl.load(places(left, top, ROWS, piece * WIDTH, WIDTH, D))
        y = tl.load(places(right, start, COLS, piece * WIDTH, WIDTH, D))
        z = product(x, tl.trans(y), z, PRECISION)
    if BIAS == "constant":
        c += tl.load(left_bias)
    z = a * z + c
    if BIAS == "rows":
        z += tl.load(left_bias + rows)[:, None]
        z += tl.load(right_bias + cols)[None, :]
    numbers, edge = None, (start + COLS > k) | (top + ROWS > n)
    if SKIPS:
        edge = edge | ((start < top + ROWS) & (start + COLS > top))
    if TRIANGLE:
        edge = edge | (start < top + ROWS)
    if PAIRS != "all":
        numbers, edge = tl.load(left_numbers + rows), True
    total, weight = evaluated(
        z, edge, rows, cols, n, k, numbers, right_numbers,
        EVALUATE, SUMS, VANISHES, PAIRS, TRIANGLE, SKIPS, ROWS, COLS,
    )  # fmt: skip
    tl.store(totals + (tile * tl.num_programs(0) + block) * ROWS + tl.arange(0, ROWS), total)
    if GRAD:
        line = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None] * stride
        at = weights + line + (tile * COLS + tl.arange(0, COLS))[None, :]
        tl.store(at, weight.to(OPERAND))
