"""What the GPU benchmarks of PyTorch and JAX share: cases, sizes, timing, and single failures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Row, seconds
from fmicl_core import DIVERGENCES, get_divergence
from fmicl_core.objective import NEGATIVES

DTYPES = ("bfloat16", "float16", "tf32", "float32")
#: Flops that no exact method can avoid, in N^2 D; a symmetric block needs half of a full one.
FLOPS = {"cross": 6, "anchor": 3}
#: Rows of a chunk of the baseline that tiles as Inf-CL does, and most rows of the dense forms.
CHUNK, DENSE_ROWS = 2048, 32768


class Check(NamedTuple):
    """One loss with its gradient to be compared with the reference."""

    divergence: str
    negatives: str
    implementation: str
    dtype: str
    n: int
    d: int
    normalize: bool = True


class Speed(NamedTuple):
    """One size to be timed with every loss, or with those of `only`."""

    n: int
    d: int
    dtype: str
    negatives: str
    repeats: int
    only: tuple[str, ...] = ()


class Result(NamedTuple):
    """Features as the loss saw them, and what it made of them; float64."""

    x: np.ndarray
    y: np.ndarray
    loss: float
    gradients: tuple[np.ndarray, np.ndarray]


def checks(forms: tuple[str, ...], small: bool) -> Iterator[Check]:
    """Each divergence, scheme, form and dtype; raw features; each width of the kernels."""
    n = 150 if small else 700
    suitable = [name for name in DIVERGENCES if get_divergence(name).suitable]
    for divergence in suitable[:2] if small else suitable:
        for negatives in NEGATIVES:
            for form in forms:
                for dtype in DTYPES:
                    yield Check(divergence, negatives, form, dtype, n, 64)
    widths = (5, 150) if small else (5, 100, 128, 200, 512, 768, 1024)
    for form in forms:
        if form.startswith("kernel"):
            for dtype in DTYPES:
                yield Check("js", "all", form, dtype, n, 64, normalize=False)
                for d in widths:
                    yield Check("js", "all", form, dtype, n, d)


def speeds(small: bool) -> Iterator[Speed]:
    """The sizes that are timed."""
    if small:
        for dtype in ("float32", "bfloat16"):
            yield Speed(300, 32, dtype, "cross", 1)
        yield Speed(300, 32, "bfloat16", "anchor", 1, ("kernel",))
        return
    for n, d in ((512, 128), (1024, 128), (8192, 128), (8192, 512), (32768, 128), (65536, 128),
                 (65536, 512)):  # fmt: skip
        for dtype in DTYPES if n < 65536 else ("bfloat16",):
            for negatives in FLOPS:
                yield Speed(n, d, dtype, negatives, 10 if n < 32768 else 3)
    for dtype in ("bfloat16", "float32"):
        yield Speed(1 << 20, 128, dtype, "anchor", 1, ("kernel",))


def guarded(measure: Callable[[], Row]) -> Row:
    """The row of a measurement, or the reason why there is none."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call that waits for the device, after two to warm up and compile."""
    times = [seconds(call) for _ in range(repeats + 2)]
    return 1e3 * statistics.median(times[2:])


def fraction_of_rate(case: Speed, ms: float, tflops: float) -> float:
    """Share of the rate of a large matrix product that the unavoidable flops amount to."""
    return round(1e-9 * FLOPS[case.negatives] * case.n**2 * case.d / ms / tflops, 4)
