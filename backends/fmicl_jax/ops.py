"""The functions of the specification in JAX."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fmicl_core.ops import Ops

#: Matrix product in the full precision of the dtype: some accelerators round float32 by default.
product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@jax.custom_jvp
def _expm1(x: jax.Array) -> jax.Array:
    return jnp.expm1(x)


@_expm1.defjvp
def _(primals, tangents):  # type: ignore[no-untyped-def]
    # JAX takes the slope as expm1(x) + 1, which is 0 below x = -17 in float32; this is e^x.
    (x,), (tangent,) = primals, tangents
    return _expm1(x), jnp.exp(x) * tangent


def _sum(x: jax.Array) -> jax.Array:
    # Axis by axis: adding up 2^18 float32 numbers one after the other would lose four digits.
    return x.sum(axis=0).sum()


def _sum_log1p(x: jax.Array) -> jax.Array:
    return _sum(jnp.log1p(x))


JAX = Ops(
    name="jax",
    exp=jnp.exp,
    expm1=_expm1,
    log=jnp.log,
    log1p=jnp.log1p,
    softplus=jax.nn.softplus,
    sigmoid=jax.nn.sigmoid,
    relu=jax.nn.relu,
    sum=_sum,
    sum_log1p=_sum_log1p,
)


def normalize_rows(x: jax.Array, length: jax.Array | None = None) -> jax.Array:
    """Rows scaled to unit length, x / |x|, or to another; (N, D) to (N, D). A zero row stays zero.

    The largest entry is divided out first, so that no finite row overflows or underflows; as the
    result does not depend on it, no gradient flows through it.
    """
    largest = jax.lax.stop_gradient(jnp.abs(x).max(axis=1, keepdims=True))
    scaled = x / jnp.where(largest == 0, 1.0, largest)
    square = (scaled * scaled).sum(axis=1, keepdims=True)
    norms = jnp.sqrt(jnp.where(square == 0, 1.0, square))
    return scaled / (norms if length is None else norms / length)


def square_lengths(x: jax.Array) -> jax.Array:
    """|x_i|^2 of every row; (N, D) to (N,)."""
    return (x * x).sum(axis=1)


def off_diagonal(square: jax.Array) -> jax.Array:
    """A square matrix without its diagonal, (N, N) to (N - 1, N)."""
    n = square.shape[0]
    return square.reshape(-1)[1:].reshape(n - 1, n + 1)[:, :-1]
