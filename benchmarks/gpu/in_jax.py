"""The JAX losses on a GPU: their values, time and memory, beside baselines under jax.jit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fmicl_jax
from benchmarks.gpu.cases import (
    Check,
    Result,
    Speed,
    Tune,
    call_of,
    ids_of,
    is_single,
    scalars_of,
    tile_rows,
)
from benchmarks.gpu.plain_jax import plain_loss
from benchmarks.gpu.tuning import replaced_tiles
from benchmarks.timing import Row, milliseconds

Arguments = dict[str, jax.Array]
#: Features among the arguments, in the order in which they are compared.
FEATURES = ("x", "y", "bank")


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


def arguments(case: Check | Speed) -> tuple[Arguments, Arguments]:
    """What the loss of a case takes, by name: what has a gradient, and what has none."""
    x, y = views(case.n, case.d, case.dtype, "")
    leaves = {"x": x} if is_single(case) else {"x": x, "y": y}
    others = {name: jnp.asarray(value) for name, value in ids_of(case).items()}
    if case.bank:
        bank = jax.random.normal(jax.random.key(1), (case.bank_rows, case.d))
        # A queue, which is what a bank is, has no gradient.
        (leaves if isinstance(case, Check) else others)["bank"] = bank.astype(kind_of(case.dtype))
    if case.scalars == "learned":
        leaves |= {name: jnp.asarray(value) for name, value in scalars_of(case).items()}
    return leaves, others


def loss_of(case: Check | Speed) -> Callable[[Arguments, Arguments], jax.Array]:
    """The loss of a case, ours or in plain code, of what `arguments` gives."""
    if case.form.startswith("compiled"):
        plain = plain_loss(case)
        return lambda leaves, others: plain(**leaves, **others)
    name, options = call_of(case)
    function = getattr(fmicl_jax, name)

    def loss(leaves: Arguments, others: Arguments) -> jax.Array:
        given = leaves | others
        return function(given.pop("x"), given.pop("y", None), **given, **options)  # type: ignore[no-any-return]

    return loss


def result(case: Check, device: str) -> Result:
    """The loss and, unless the value alone is asked for, its gradients."""
    leaves, others = arguments(case)
    gradients: Arguments = {}
    with precision(case.dtype):
        if case.form == "fused_value":
            value = jax.jit(loss_of(case))(leaves, others)
        else:
            value, gradients = jax.jit(jax.value_and_grad(loss_of(case)))(leaves, others)

    def arrays(of: Arguments) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(of[name], np.float64) for name in FEATURES if name in of)

    slopes = tuple(float(gradients[k]) for k in scalars_of(case) if k in gradients)
    return Result(arrays(leaves), float(value), arrays(gradients), slopes)


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 256
    a, b = views(n, n, dtype, device)
    with precision(dtype):
        run = jax.jit(lambda a, b: a @ b)
        return 2e-9 * n**3 / milliseconds(partial(wait_for, run, a, b), 10)


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
    """What is timed, of what `arguments` gives, compiled for the size of the case."""
    if case.form.startswith("products"):
        rows = case.n if case.form == "products" else tile_rows(case.n)

        def step(leaves: Arguments, others: Arguments) -> Any:
            return products(leaves["x"], leaves["y"], case.negatives, rows)
    else:
        step = jax.value_and_grad(loss_of(case))
    with precision(case.dtype):
        return jax.jit(step).lower(*jax.eval_shape(partial(arguments, case))).compile()


@contextmanager
def tiles_of(case: Speed | Tune) -> Iterator[list[tuple[int, ...]]]:
    """The tiles of a case to be tuned in place of the library's; those that were taken."""
    if not isinstance(case, Tune):
        yield []
        return
    from fmicl_jax import fused_pallas, fused_weights

    jax.clear_caches()  # what was traced has other tiles
    try:
        with (
            replaced_tiles(fused_pallas, case.tiles) as taken,
            replaced_tiles(fused_weights, case.tiles, taken),
        ):
            yield taken
    finally:
        jax.clear_caches()


def wait_for(run: Callable[..., Any], *given: Any) -> None:
    """Call it until the device is done; what it returns is dropped."""
    jax.block_until_ready(run(*given))


def warm(case: Speed | Tune, device: str) -> None:
    """Have what the case needs compiled, for all processes."""
    with tiles_of(case):
        step_of(case.speed if isinstance(case, Tune) else case)


def tune(case: Tune, device: str) -> Row:
    """Time with the given tiles, the tiles, and what tells whether the loss is still the same."""
    with tiles_of(case) as taken:
        run, given = step_of(case.speed), arguments(case.speed)
    value, gradients = run(*given)
    length = float(jnp.linalg.norm(gradients["x"].astype(jnp.float32)))
    ms = milliseconds(partial(wait_for, run, *given), case.repeats, untimed=1)
    row: Row = {"ms": round(ms, 4), "tiles": case.taken(taken)}
    return row | {"value": round(float(value), 5), "gradient": float(f"{length:.5g}")}


def speed(case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value.

    The memory is what XLA plans for temporaries, beside inputs and gradients.
    """
    run = step_of(case)
    given = arguments(case)
    row: Row = {}
    if case.form.startswith("products"):
        unit = {k: v / jnp.linalg.norm(v, axis=1, keepdims=True) for k, v in given[0].items()}
        given = {k: v.astype(kind_of(case.dtype)) for k, v in unit.items()}, given[1]
        wait_for(run, *given)
    else:
        row["value"] = round(float(run(*given)[0]), 5)  # of all forms the same but for rounding
    if device != "cpu":
        row["extra_mib"] = round(run.memory_analysis().temp_size_in_bytes / 2**20, 1)
    call = partial(wait_for, run, *given)
    row["ms"] = round(milliseconds(call, case.repeats, untimed=1), 3)
    return row
