"""The JAX losses on a GPU: their values, time and memory, beside baselines under jax.jit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_cases import CHUNK, DENSE_ROWS, Check, Result, Speed, milliseconds
from benchmarks.timing import Row
from fmicl_core.divergences import LOG2
from fmicl_jax import fmicl_loss

FORMS = ("dense", "tiled", "kernel")
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def device_name() -> str:
    """The GPU, or "cpu" where there is none."""
    return str(jax.devices()[0].device_kind)


def views(n: int, d: int, dtype: str, device: str) -> list[jax.Array]:
    """Two views of `n` samples."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (n, d))
    y = x + 0.5 * jax.random.normal(keys[1], (n, d))
    return [v.astype("float32" if dtype == "tf32" else dtype) for v in (x, y)]


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Products of float32 numbers in tf32 for "tf32", and in full elsewhere."""
    with jax.default_matmul_precision("tensorfloat32" if dtype == "tf32" else "float32"):
        yield


def result(case: Check, similarity: object, device: str) -> Result:
    """The loss and its gradients."""
    x, y = views(case.n, case.d, case.dtype, device)
    loss = partial(
        fmicl_loss, divergence=case.divergence, negatives=case.negatives, similarity=similarity,
        normalize=case.normalize, implementation=case.implementation,
    )  # type: ignore[arg-type]  # fmt: skip
    with precision(case.dtype):
        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, y)
    a, b, *gradients = (np.asarray(v, np.float64) for v in (x, y, *gradients))
    return Result(a, b, float(value), tuple(gradients))


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 512
    a, b = views(n, n, dtype, device)
    with precision(dtype):
        run = jax.jit(lambda a, b: a @ b)
        return 2e-9 * n**3 / milliseconds(lambda: jax.block_until_ready(run(a, b)), 10)


def own_loss(negatives: str, implementation: str) -> Loss:
    """A loss of this library."""
    return partial(fmicl_loss, divergence="js", negatives=negatives, implementation=implementation)


def chunks(x: jax.Array, y: jax.Array) -> jax.Array:
    """Jensen-Shannon "cross" of row chunks, each computed again in the backward pass."""

    def unit(v: jax.Array) -> jax.Array:
        length = jnp.linalg.norm(v.astype(jnp.float32), axis=1, keepdims=True)
        return (v / length).astype(v.dtype)

    x, y = unit(x), unit(y)

    @jax.checkpoint
    def chunk(rows: jax.Array) -> jax.Array:
        z = jnp.matmul(rows, y.T, preferred_element_type=jnp.float32)
        return jax.nn.softplus(2.0 * z - 2.0).sum()

    total = jax.lax.map(chunk, x.reshape(-1, min(CHUNK, len(x)), x.shape[1])).sum()
    own = 2.0 * (x * y).astype(jnp.float32).sum(axis=1) - 2.0
    pairs = len(x) * (len(x) - 1)
    uniformity = (total - jax.nn.softplus(own).sum()) / pairs - LOG2
    return 40.0 * uniformity + jax.nn.softplus(-own).mean() - LOG2


def losses(n: int, negatives: str) -> dict[str, Callable[[], Loss]]:
    """What is compared at so many rows, by name; made when its turn comes."""
    own = ("kernel", "tiled") + (("dense",) if n <= DENSE_ROWS else ())
    made: dict[str, Any] = {name: partial(own_loss, negatives, name) for name in own}
    if negatives == "cross":
        made["jit_chunks"] = lambda: chunks
    return made


def speed(name: str, make: Callable[[], Loss], case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value.

    The memory is what XLA plans for temporaries, beside inputs and gradients.
    """
    x, y = views(case.n, case.d, case.dtype, device)
    with precision(case.dtype):
        run = jax.jit(jax.value_and_grad(make(), argnums=(0, 1))).lower(x, y).compile()
        ms = milliseconds(lambda: jax.block_until_ready(run(x, y)), case.repeats)
        value = float(run(x, y)[0])  # of all losses of a case the same
    row: Row = {"ms": round(ms, 3)}
    if device != "cpu":
        row["extra_mib"] = round(run.memory_analysis().temp_size_in_bytes / 2**20, 1)
    return row | {"value": round(value, 5)}
