"""The functions of one entry that `fmicl_torch.fused_formulas` writes code with, in Triton.

Imported only where they are used, because they need Triton.
"""

from __future__ import annotations

import hashlib
import linecache
import os
from functools import lru_cache
from typing import Any

import triton
import triton.language as tl
from triton.language.extra import libdevice

#: Whether Triton runs its routines in Python, where the functions of a GPU are not to be had.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def divide(x, y):  # type: ignore[no-untyped-def]
    """X / y in two instructions, off by 2 units in the last place; 0 where |y| is above 2^126."""
    if INTERPRETED:
        return x / y
    return libdevice.fast_dividef(x, y)


@triton.jit
def expm1(x):  # type: ignore[no-untyped-def]
    """e^x - 1; below 1/2 a polynomial, off by 1e-8, keeps the digits that subtraction loses."""
    series = 1.0 + x * (1.0 / 7.0) * (1.0 + x * (1.0 / 8.0))
    series = 1.0 + x * (1.0 / 5.0) * (1.0 + x * (1.0 / 6.0) * series)
    series = 1.0 + x * (1.0 / 3.0) * (1.0 + x * (1.0 / 4.0) * series)
    return tl.where(tl.abs(x) < 0.5, x * (1.0 + x * 0.5 * series), tl.exp(x) - 1.0)


@triton.jit
def log1p(x):  # type: ignore[no-untyped-def]
    """log(1 + x) = 2 atanh(s), s = x / (2 + x); near 0 by the series of atanh, off by 1e-8."""
    s = divide(x, 2.0 + x)
    square = s * s
    series = 1.0 / 5.0 + square * (1.0 / 7.0 + square * (1.0 / 9.0))
    near = 2.0 * s * (1.0 + square * (1.0 / 3.0 + square * series))
    if INTERPRETED:  # noqa: SIM108
        far = tl.log(1.0 + x)
    else:  # one instruction in place of twenty, off by 2^-22 where the logarithm is at least 1/3
        far = libdevice.fast_logf(1.0 + x)
    return tl.where(tl.abs(x) < 0.4, near, far)


@triton.jit
def relu(x):  # type: ignore[no-untyped-def]
    """max(x, 0), which lets NaN through."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def compound(p, q):  # type: ignore[no-untyped-def]
    """(1 + p)(1 + q) - 1, with the digits of small p and q."""
    return p * (1.0 + q) + q


@lru_cache(maxsize=256)
def evaluator(source: str) -> Any:
    """The Triton function of a source of `fmicl_torch.fused_formulas`."""
    # Triton reads the source of its functions from the file they are in, so there must be one.
    name = f"<fmicl {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope = dict(globals())
    exec(compile(source, name, "exec"), scope)
    return triton.jit(scope["evaluate"])
