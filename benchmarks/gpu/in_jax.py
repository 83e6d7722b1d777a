"""The JAX losses on a GPU: their values, time and memory, beside baselines under jax.jit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.cases import CHUNK, Check, Result, Speed, tile_rows
from benchmarks.timing import Row, milliseconds
from fmicl_core.divergences import LOG2
from fmicl_jax import fmicl_loss


def prepare(device: str) -> str:
    """Name of the GPU, or "cpu" where that is asked for; routines are interpreted there."""
    if device == "cpu":
        from fmicl_jax import fused

        fused.INTERPRET = True
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX sees no GPU, only {jax.devices()}")
    return str(jax.devices()[0].device_kind)


def in_order() -> bool:
    """Whether the device still answers this process."""
    try:
        return float(jnp.ones(2).sum()) == 2.0
    except Exception:
        return False


def views(n: int, d: int, dtype: str, device: str) -> list[jax.Array]:
    """Two views of `n` samples."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (n, d))
    y = x + 0.5 * jax.random.normal(keys[1], (n, d))
    return [v.astype(kind_of(dtype)) for v in (x, y)]


def kind_of(dtype: str) -> str:
    """What numbers of that name are stored in."""
    return "float32" if dtype == "tf32" else dtype


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Products of float32 numbers in tf32 for "tf32", and in full elsewhere."""
    with jax.default_matmul_precision("tensorfloat32" if dtype == "tf32" else "float32"):
        yield


def result(case: Check, similarity: object, device: str) -> Result:
    """The loss and, unless the value alone is asked for, its gradients."""
    features = views(case.n, case.d, case.dtype, device)
    if case.bank:
        bank = jax.random.normal(jax.random.key(1), (case.bank_rows, case.d))
        features.append(bank.astype(kind_of(case.dtype)))

    def loss(x: jax.Array, y: jax.Array, bank: jax.Array | None = None) -> jax.Array:
        return fmicl_loss(
            x, y, bank=bank, divergence=case.divergence, similarity=similarity,
            negatives=case.negatives, normalize=case.normalize,
            implementation=case.form.split("_")[0],
        )  # type: ignore[arg-type]  # fmt: skip

    gradients: Any = ()
    with precision(case.dtype):
        if case.form == "fused_value":
            value = jax.jit(loss)(*features)
        else:
            places = tuple(range(len(features)))
            value, gradients = jax.jit(jax.value_and_grad(loss, argnums=places))(*features)
    arrays = [np.asarray(v, np.float64) for v in (*features, *gradients)]
    count = len(features)
    return Result(tuple(arrays[:count]), float(value), tuple(arrays[count:]))


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 256
    a, b = views(n, n, dtype, device)
    with precision(dtype):
        run = jax.jit(lambda a, b: a @ b)
        return 2e-9 * n**3 / milliseconds(partial(wait_for, run, a, b), 10)


def chunks(x: jax.Array, y: jax.Array, negatives: str) -> jax.Array:
    """Jensen-Shannon of row chunks, each computed again in the backward pass."""

    def unit(v: jax.Array) -> jax.Array:
        length = jnp.linalg.norm(v.astype(jnp.float32), axis=1, keepdims=True)
        return (v / length).astype(v.dtype)

    x, y = unit(x), unit(y)
    others = y if negatives == "cross" else x

    @jax.checkpoint
    def chunk(rows: jax.Array) -> jax.Array:
        z = jnp.matmul(rows, others.T, preferred_element_type=jnp.float32)
        return jax.nn.softplus(2.0 * z - 2.0).sum()

    total = jax.lax.map(chunk, x.reshape(-1, min(CHUNK, len(x)), x.shape[1])).sum()
    positive = 2.0 * (x * y).astype(jnp.float32).sum(axis=1) - 2.0
    own = 2.0 * (x * others).astype(jnp.float32).sum(axis=1) - 2.0
    pairs = len(x) * (len(x) - 1)
    penalty = (total - jax.nn.softplus(own).sum()) / pairs - LOG2
    return 40.0 * penalty + jax.nn.softplus(-positive).mean() - LOG2


def products(x: jax.Array, y: jax.Array, negatives: str, rows: int) -> Any:
    """The matrix products of a loss with its gradients and no formula between: a floor.

    Of "anchor" there are two, of 4 N^2 D flops together, since XLA has no half of a product.
    """
    symmetric = negatives == "anchor"
    right = x if symmetric else y

    def tile(grad: jax.Array, left: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = left @ right.T
        return (grad if symmetric else grad + z.T @ left), z @ right

    if rows >= len(x):
        return tile(jnp.zeros_like(x), x)
    return jax.lax.scan(tile, jnp.zeros_like(x), x.reshape(-1, rows, x.shape[1]))


def step_of(case: Speed) -> Any:
    """What is timed, compiled for the size of the case."""
    name, negatives = case.loss, case.negatives
    if name.startswith("products"):
        rows = case.n if name == "products" else tile_rows(case.n)
        step: Callable[..., Any] = partial(products, negatives=negatives, rows=rows)
    else:
        own = partial(fmicl_loss, divergence="js", negatives=negatives, implementation=name)
        loss = partial(chunks, negatives=negatives) if name == "jit_chunks" else own
        step = jax.value_and_grad(loss, argnums=(0, 1))
    kind = jax.ShapeDtypeStruct((case.n, case.d), kind_of(case.dtype))
    with precision(case.dtype):
        return jax.jit(step).lower(kind, kind).compile()


def wait_for(run: Callable[..., Any], *given: jax.Array) -> None:
    """Call it until the device is done; what it returns is dropped."""
    jax.block_until_ready(run(*given))


def warm(case: Speed, device: str) -> None:
    """Have what the case needs compiled, for all processes."""
    step_of(case)


def speed(case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value.

    The memory is what XLA plans for temporaries, beside inputs and gradients.
    """
    run = step_of(case)
    x, y = views(case.n, case.d, case.dtype, device)
    if case.loss.startswith("products"):
        x, y = (v / jnp.linalg.norm(v, axis=1, keepdims=True).astype(v.dtype) for v in (x, y))
    row: Row = {}
    if case.loss.startswith("products"):
        wait_for(run, x, y)
    else:
        row["value"] = round(float(run(x, y)[0]), 5)  # of all losses of a case the same
    if device != "cpu":
        row["extra_mib"] = round(run.memory_analysis().temp_size_in_bytes / 2**20, 1)
    call = partial(wait_for, run, x, y)
    row["ms"] = round(milliseconds(call, case.repeats, untimed=1), 3)
    return row
