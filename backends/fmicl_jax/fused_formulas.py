"""The specification as Pallas takes it: its formulas of a single pair, for every pair of a tile."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from fmicl_core import Pairwise
from fmicl_core.fused import LOG2_E
from fmicl_core.ops import Ops
from fmicl_jax.ops import JAX


def _exp(x: jax.Array) -> jax.Array:
    # In base 2 it is one instruction of a GPU beside the product; that in base e takes six more.
    return jnp.exp2(LOG2_E * x)


def _softplus(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0.0) + jnp.log1p(_exp(-jnp.abs(x)))


def _sigmoid(x: jax.Array) -> jax.Array:
    rest = _exp(-jnp.abs(x))  # which softplus shares
    return jnp.where(x > 0.0, 1.0, rest) / (1.0 + rest)


#: The functions of the specification for a single pair, whose sum is itself.
ONE_PAIR = Ops(
    name="pallas",
    exp=_exp,
    expm1=jnp.expm1,
    log=JAX.log,
    log1p=jnp.log1p,
    softplus=_softplus,
    sigmoid=_sigmoid,
    relu=JAX.relu,
    sum=lambda x: x,
    sum_log1p=jnp.log1p,
)


def evaluate(pairwise: Pairwise, z: jax.Array, positive: bool) -> tuple[jax.Array, jax.Array]:
    """Excess, or score if positive, and slope of every pair, from the formulas of one."""

    def one_pair(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        if positive:
            return pairwise.positive(z, ONE_PAIR), pairwise.positive_slope(z, ONE_PAIR)
        return pairwise.excess_total_and_slope(z, ONE_PAIR)

    value, slope = jax.vmap(jax.vmap(one_pair))(z)
    return value, slope


def lower_formulas(pairwise: Pairwise, positive: bool) -> None:
    """Have Pallas write the formulas of a tile in Triton; raises whatever it or they raise.

    From JAX 0.11 on Pallas writes for a GPU that is there. Without one, where the routine can only
    be interpreted, the formulas are traced.
    """

    def program(given: Any, value: Any, slope: Any) -> None:
        value[...], slope[...] = evaluate(pairwise, given[...], positive)

    def call(given: jax.Array) -> Any:
        shapes = jax.eval_shape(lambda x: (x, x), given)  # right inside jax.shard_map as well
        return pl.pallas_call(program, shapes, compiler_params=plgpu.CompilerParams())(given)

    tile = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    traced = jax.jit(call).trace(tile)
    if jax.default_backend() == "gpu" or jax.__version_info__ < (0, 11):
        traced.lower(lowering_platforms=("cuda",))
