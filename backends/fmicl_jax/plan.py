"""What a sweep over tiles is compiled for, the static argument of the tiled and the fused form;
names for what losses and sweeps take and give.
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


#: A number, or an array of no dimension, which may learn.
Scalar = float | jax.Array


class Scalars(NamedTuple):
    """What of a loss may change, `fmicl_core.objective.SCALARS`; None: that of the similarity.

    An alpha that is found from the batch is "auto", a text, and no data to compiled code.
    """

    alpha: Scalar | str
    logit_scale: Scalar | None = None
    logit_bias: Scalar | None = None


#: Features by name: "x", "y", "bank".
Rows = dict[str, jax.Array]
#: Numbers of the rows on the left of a block, and on its right (None: the same rows); equal where
#: the ids of the rows are.
Numbers = tuple[jax.Array, jax.Array | None]
#: Whether the gradients in left, in right and in the bias are wanted.
Wanted = tuple[bool, bool, bool]
#: These gradients, where wanted; of a symmetric block the first is that in both sides.
Gradients = tuple[jax.Array | None, jax.Array | None, jax.Array | None]


def coefficients_of(
    pairwise: Pairwise, bias: jax.Array | None
) -> tuple[float, float, float | jax.Array]:
    """(a, b, c) of z = a (x . y) + b (|x|^2 + |y|^2) + c, with the bias that learns in c."""
    a, b, c = pairwise.coefficients()
    return a, b, c if bias is None else c + bias
