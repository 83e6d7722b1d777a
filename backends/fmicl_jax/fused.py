"""When the Pallas routine is used, and what it has to know of the device.

It computes what `fmicl_jax.tiled` computes, without leaving the chip between products. It has been
compiled for GPUs and run in Pallas' interpreter, but not yet run on a GPU.
"""

from __future__ import annotations

from functools import lru_cache

import jax

from fmicl_core import Pairwise
from fmicl_core.forms import FUSED, choose_form
from fmicl_core.fused import (
    LARGE_MEMORY,
    LEAST_CAPABILITY,
    LEAST_MEMORY,
    padded_width,
    refusal,
    refused,
    too_wide,
)
from fmicl_jax.plan import Fused

#: Whether Pallas runs the fused routine in Python, on any device; for tests.
INTERPRET = False
#: Pallas counts the entries of a matrix in 32 bits.
MAX_ENTRIES = 1 << 31
#: Values of `jax_default_matmul_precision` that let float32 products round to tf32, and no more.
TF32 = ("tensorfloat32", "TF32_TF32_F32")


def fused_for(
    implementation: str, pairwise: Pairwise, x: jax.Array, dtype: str, n: int, k: int,
    positives: bool = False,
) -> Fused | None:  # fmt: skip
    """How the fused routine is made for blocks of at most n x k pairs, or None if it is not used.

    Args:
        implementation: name of a form, or "auto", which leaves small batches to the dense form, and
            plain float32 to the tiled one.
        pairwise: the specification.
        x: features as given to the loss.
        dtype: dtype that x, y and the bank are promoted to.
        n: number of rows.
        k: number of columns.
        positives: whether positive pairs are to be summed as well.

    Raises:
        ValueError: `implementation` is "fused" and there is none; says why.
    """
    if choose_form(implementation, n, k, fused=True) != FUSED:
        return None
    device = device_of(x)
    fused = Fused(dtype, _tf32(), *_facts(device), INTERPRET)
    why = _refusal(device, fused.dtype) or too_wide(x.shape[1]) or _too_many(max(n, k), x.shape[1])
    if not why and implementation == "auto" and fused.dtype == "float32" and not fused.tf32:
        return None  # cuBLAS is better than Triton at products without tensor cores
    for positive in (False, True) if positives else (False,):
        why = why or _formulas_refused(pairwise, positive)
    if why and implementation == FUSED:
        raise refused(why)
    return None if why else fused


def device_of(x: jax.Array) -> jax.Device:
    """The device of x or, while tracing, where it is not known, the one that JAX would take."""
    if not isinstance(x, jax.core.Tracer) and isinstance(x, jax.Array):
        return next(iter(x.devices()))
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default or jax.local_devices()[0]


def _refusal(device: jax.Device, dtype: str) -> str:
    if INTERPRET:
        return refusal(device.platform, LEAST_CAPABILITY, dtype)
    return refusal(device.platform, _capability(device), dtype)


def _capability(device: jax.Device) -> tuple[int, int] | None:
    numbers = str(getattr(device, "compute_capability", "")).split(".")
    if device.platform != "gpu" or not all(n.isdigit() for n in numbers):  # AMD has names
        return None
    major, minor = (int(n) for n in (*numbers, "0")[:2])
    return major, minor


def _facts(device: jax.Device) -> tuple[int, int]:
    """Processors of the device, and bytes of shared memory a program may use there."""
    if device.platform != "gpu":
        return 1, LARGE_MEMORY
    memory = getattr(device, "shared_memory_per_block_optin", LEAST_MEMORY)
    return getattr(device, "core_count", 1), memory


def _too_many(rows: int, d: int) -> str:
    width = padded_width(d)
    if rows * width < MAX_ENTRIES:
        return ""
    return f"The fused form takes N D < {MAX_ENTRIES}, not {rows} x {width}."


def _tf32() -> bool:
    return jax.config.jax_default_matmul_precision in TF32  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _formulas_refused(pairwise: Pairwise, positive: bool) -> str:
    """Why the formulas of a negative or a positive pair cannot be written in Triton, or ""."""
    from fmicl_jax.fused_formulas import lower_formulas  # imports Pallas

    try:
        lower_formulas(pairwise, positive)
    except Exception as error:  # whatever a formula of a user's own raises, or Pallas of it
        first = str(error).strip().splitlines()[:1]
        return f"Pallas cannot write the formulas ({': '.join([type(error).__name__, *first])})."
    return ""
