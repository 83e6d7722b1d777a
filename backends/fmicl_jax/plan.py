"""What a sweep over tiles is compiled for, the static argument of the tiled and the fused form;
names for what sweeps take and give.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from fmicl_core import Pairwise


class Fused(NamedTuple):
    """How the fused routine is made.

    Args:
        dtype: dtype of the products.
        tf32: whether float32 products may round to tf32.
        processors: number of processors of the GPU.
        memory: bytes of shared memory that a program may use.
        interpret: whether Pallas runs it in Python, on any device.
    """

    dtype: str
    tf32: bool
    processors: int
    memory: int
    interpret: bool


class Plan(NamedTuple):
    """All that a sweep of one block depends on, beside its features.

    Args:
        pairwise: formulas and coefficients of a pair.
        skips_diagonal: whether pairs with i = j are left out.
        tile: rows and columns of a plain tile, at most.
        fused: how the fused routine is made, or None for plain tiles.
    """

    pairwise: Pairwise
    skips_diagonal: bool
    tile: int
    fused: Fused | None


#: Features by name: "x", "y", "bank".
Rows = dict[str, jax.Array]
#: Numbers of the rows on the left of a block, and on its right (None: the same rows); equal where
#: the ids of the rows are.
Numbers = tuple[jax.Array, jax.Array | None]
#: Gradients in left and in right, where wanted; of a symmetric block the first is the whole one.
Gradients = tuple[jax.Array | None, jax.Array | None]
