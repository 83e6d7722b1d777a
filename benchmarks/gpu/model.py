"""The time of a loss on paper: what each unit of a GPU has to do, over what it can do.

    python -m benchmarks.gpu.model         # the table of docs/gpu.md, with what has been measured

Made before any measurement, so that a measurement tests it. Instructions per pair are counted in
the machine code (`tools/compile_fused.py --csv`), work and bytes follow from the form:

    tensor cores   flops / TENSOR                       issue   instructions / ISSUE
    special units  exponentials, logarithms, ... / MUFU  atomics additions / ATOMICS

A program waits for its own products before it computes with them, so that its units take turns;
those of the P programs on one multiprocessor overlap: a pass takes the larger of the slowest unit's
time and of the sum of all divided by P. Atomics and memory are asynchronous. To this come HOST
milliseconds of Python for every loss, which only several losses in a row hide.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.gpu.table import ROOT

COMPILED = ROOT / "benchmarks" / "results" / "gpu_compiled.csv"
#: Multiprocessors of an H100 or H200, and clocks a second under load.
PROCESSORS, CLOCK = 132, 1.6e9
#: Flops a second: of cuBLAS in large products, as measured on such a card, and of the tensor cores
#: in a routine of Triton's; multiply-adds in bfloat16 and in tf32, of which there are half as many.
CUBLAS, TENSOR = 7.9e14, 4096 * PROCESSORS * CLOCK
#: Lanes a second that the special function units serve, and that warps are issued for.
MUFU, ISSUE = 16 * PROCESSORS * CLOCK, 128 * PROCESSORS * CLOCK
#: float32 additions a second in the second-level cache: an assumption, for single ones.
ATOMICS = 6e11
#: Bytes a second that a copy reads and writes.
BANDWIDTH = 3.0e12
#: Milliseconds of Python for a loss with its gradients, and for a compiled one.
HOST, HOST_COMPILED = 0.8, 0.3


class Shape(NamedTuple):
    """What a time depends on: rows, width, dtype, and "cross" or "anchor"."""

    n: int
    d: int
    dtype: str
    negatives: str

    @property
    def symmetric(self) -> bool:
        """Whether half of the pairs are enough."""
        return self.negatives == "anchor"


class Units(NamedTuple):
    """Milliseconds that each unit of the GPU needs for a loss, and programs a multiprocessor."""

    tensor: float
    special: float
    issue: float
    atomics: float
    memory: float
    programs: int = 1

    @property
    def device(self) -> float:
        """Milliseconds of the whole."""
        arithmetic = max(self.special, self.issue)
        in_turn = max(self.tensor, arithmetic, (self.tensor + arithmetic) / self.programs)
        return max(in_turn, self.atomics, self.memory)


def units_of(loss: str, shape: Shape) -> Units | None:
    """What each unit needs for a loss at a shape; None where nothing is known of the loss."""
    pairs = float(shape.n) ** 2
    plain = 1 if shape.dtype in ("bfloat16", "float16") else 2
    if loss in ("fused", "fused_deterministic"):
        return _fused(shape, atomic=loss == "fused")
    work = {"products": (2.0 if shape.symmetric else 4.0), "compiled_dense": 4.0 + 2.0}
    work |= {"compiled_chunks": 8.0, "products_tiles": 3.0 if shape.symmetric else 6.0}
    return None if loss not in work else Units(0.0, 0.0, 0.0, 0.0, 0.0)
