"""Where pairs of rows with equal numbers are, for the Pallas routine.

Rows are best sorted by their numbers, so that equal ones meet in few tiles; nothing relies on it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def tile_ranges(numbers: jax.Array, size: int) -> jax.Array:
    """Least and largest number in each tile of so many rows, (2, tiles)."""
    tiles = numbers.reshape(-1, size)
    return jnp.stack((tiles.min(axis=1), tiles.max(axis=1)))


def visited_tiles(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """First, and one past the last, tile of columns that may share a number; (2, tiles of rows).

    Args:
        rows: ranges of the numbers in the tiles of rows, (2, tiles of rows).
        columns: ranges of the numbers in the tiles of columns, (2, tiles of columns).
    """
    largest_so_far = jax.lax.cummax(columns[1])
    least_from_here = jax.lax.cummin(columns[0], reverse=True)
    find = partial(jnp.searchsorted, method="compare_all")  # no loop for so few
    first = find(largest_so_far, rows[0])
    past = find(least_from_here, rows[1], side="right")
    return jnp.stack((first, past)).astype(jnp.int32)


def weights_by_number(others: jax.Array, numbers: jax.Array, weights: jax.Array) -> jax.Array:
    """The weight of any row with the same number; that of some other row where there is none.

    Args:
        others: numbers of the rows whose weights are looked up, (K,).
        numbers: numbers of the rows with weights, (N,).
        weights: weights of these rows, (N,), equal for equal numbers.
    """
    order = jnp.argsort(numbers)
    at = jnp.searchsorted(numbers[order], others)  # past the end, the last is taken
    return weights[order[jnp.minimum(at, len(numbers) - 1)]]
