"""The time of a loss on paper: what each unit of a GPU has to do, over what it can do.

    python -m benchmarks.gpu.model         # the tables of docs/gpu.md, with what has been measured

Made before any measurement, so that a measurement tests it. What a fused routine issues for a pair
is counted in its machine code (`tools/compile_fused.py --csv`); flops and bytes follow from the
form. A program waits for its product before it computes with it, so that its units take turns;
those of the P programs of a multiprocessor overlap. A pass takes

    max(tensor, arithmetic, (tensor + arithmetic) / P, atomics, memory)

where arithmetic is the slower of issuing warps' instructions and of the special function units
(exponentials, logarithms, reciprocals). Python takes HOST_MS beside it, which it hides, or not.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fmicl_core.fused import padded_width, prefers_slabs

COMPILED = Path(__file__).resolve().parents[1] / "results" / "gpu_compiled.csv"
#: Multiprocessors of an H100 or H200, and clocks a second under load.
PROCESSORS, CLOCK = 132, 1.6e9
#: Flops a second: of large products by cuBLAS, and of the tensor cores in a routine of Triton's.
CUBLAS = {"bfloat16": 7.5e14, "float16": 7.5e14, "tf32": 3.7e14, "float32": 5.5e13}
TENSOR = {"bfloat16": 4096, "float16": 4096, "tf32": 2048, "float32": 256}  # a clock
#: Lanes a clock of the special function units and of the schedulers.
SPECIAL, ISSUE = 16, 128
#: Additions a second to float32 numbers in the second-level cache, a guess: of instructions that
#: add one number, two, or four.
ATOMICS = {1: 6e11, 2: 1.2e12, 4: 2.4e12}
#: Bytes a second from memory, as a copy moves them, and from the second-level cache.
MEMORY, CACHE = 3.0e12, 5.5e12
#: Milliseconds of Python for a loss with its gradients: ours, and a compiled one.
HOST_MS = {"fused": 0.8, "compiled": 0.3, "products": 0.05}
#: Of what is no fused routine: flops in N^2 D of "cross" and of "anchor", and how often a number of
#: every pair is written or read.
PLAIN = {
    "products": (6, 4, 3),
    "products_tiles": (6, 3, 3),
    "compiled_chunks": (8, 8, 7),
    "compiled_dense": (6, 6, 6),
}


class Shape(NamedTuple):
    """What a time depends on: rows, width, dtype, and "cross" or "anchor"."""

    n: int
    d: int
    dtype: str
    negatives: str


class Units(NamedTuple):
    """Milliseconds that each unit needs for one launch, and programs of a multiprocessor."""

    tensor: float
    special: float
    issue: float
    atomics: float
    memory: float
    programs: int

    @property
    def device(self) -> float:
        """Milliseconds of the launch."""
        arithmetic = max(self.special, self.issue)
        in_turn = (self.tensor + arithmetic) / self.programs
        return max(self.tensor, arithmetic, in_turn, self.atomics, self.memory)


@lru_cache(maxsize=1)
def compiled_rows() -> list[dict[str, str]]:
    """The rows of the routines' machine code; none where it was not read."""
    if not COMPILED.exists():
        return []
    with open(COMPILED, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row_of(shape: Shape, kind: str, library: str = "torch", divergence: str = "js") -> Any:
    """The row of the routine that a shape takes on sm_90, or None."""
    wanted = {"library": library, "gpu": "sm_90", "divergence": divergence, "dtype": shape.dtype,
              "d": str(padded_width(shape.d)), "kind": kind}  # fmt: skip
    rows = compiled_rows()
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


def launch(shape: Shape, kind: str, pairs: float) -> Units | None:
    """What the units need for one launch of a kind of routine over so many pairs."""
    row = row_of(shape, kind)
    if row is None:
        return None
    count = {k: float(v) for k, v in row.items() if k.endswith("per_pair") and v}
    each = 1e3 * pairs * int(row["chunks"] if kind != "slab" else 1)  # programs of the width
    clocks = PROCESSORS * CLOCK
    size = 2 if shape.dtype in ("bfloat16", "float16") else 4
    read = shape.d * size / int(row["rows"])  # of the columns, by every program
    if kind == "slab":  # and of the rows; what it makes is written to memory
        read += shape.d * size / int(row["columns"]) + size * CACHE / MEMORY
    additions = ATOMICS[int(row["atomic_width"] or 0) or 1]
    return Units(
        tensor=each * count["hgmma_flops_per_pair"] / (TENSOR[shape.dtype] * clocks),
        special=each * count["mufu_per_pair"] / (SPECIAL * clocks),
        issue=each * count["instructions_per_pair"] / (ISSUE * clocks),
        atomics=each * count["atomics_per_pair"] / additions,
        memory=each * read / CACHE,
        programs=max(1, int(row["programs_per_sm"])),
    )


def launches(shape: Shape, deterministic: bool = False) -> dict[str, Units] | None:
    """The launches of the fused form, by what they are; None where no machine code was read."""
    full, symmetric = float(shape.n) ** 2, shape.negatives == "anchor"
    tf32 = shape.dtype == "tf32"
    found: dict[str, Units | None]
    if prefers_slabs(shape.d, "float32" if tf32 else shape.dtype, tf32):
        found = {"slab": launch(shape, "slab", full)}
    elif deterministic:
        found = {"rows": launch(shape, "rows", full)}
        if not symmetric:
            found["columns"] = launch(shape, "rows", full)
    else:
        kind, pairs = ("triangle", 0.5 * full) if symmetric else ("full", full)
        found = {kind: launch(shape, kind, pairs)}
    known = {name: units for name, units in found.items() if units is not None}
    return known if len(known) == len(found) else None


def device_ms(loss: str, shape: Shape) -> float | None:
    """Milliseconds of the GPU for a loss with its gradients; None where nothing is known of it."""
    work, flop_ms = float(shape.n) ** 2 * shape.d, 1e3 / CUBLAS[shape.dtype]
    symmetric = shape.negatives == "anchor"
    if loss.startswith("fused"):
        found = launches(shape, deterministic=loss == "fused_deterministic")
        if found is None:
            return None
        by_cublas = (2.0 if symmetric else 4.0) * work * flop_ms if "slab" in found else 0.0
        return sum(units.device for units in found.values()) + by_cublas
    if loss not in PLAIN:
        return None
    cross, anchor, touched = PLAIN[loss]
    size = 2 if shape.dtype in ("bfloat16", "float16") and loss != "compiled_dense" else 4
    if loss == "compiled_dense" and size == 4 and shape.dtype != "tf32":  # unit rows in float32
        flop_ms = 1e3 / CUBLAS["float32"]
    flops = (anchor if symmetric else cross) * work * flop_ms
    return flops + 1e3 * touched * size * float(shape.n) ** 2 / MEMORY


def predicted_ms(loss: str, shape: Shape) -> float | None:
    """Milliseconds that a call waits for, with Python's; None where nothing is known of it."""
    device = device_ms(loss, shape)
    host = next((ms for name, ms in HOST_MS.items() if loss.startswith(name)), 0.0)
    return None if device is None else round(max(device, host), 3)


#: Shapes of the table: rows, width.
SHAPES = ((8192, 128), (65536, 128), (1 << 20, 128), (8192, 512), (65536, 512), (8192, 1024))
HEADER = (
    "N", "D", "negatives", "tensor cores", "arithmetic", "atomics", "cache", "cuBLAS", "fused, ms",
    "compiled chunks, ms", "ratio", "measured fused, ms", "measured chunks, ms", "measured ratio",
)  # fmt: skip


def measured_ms(loss: str, shape: Shape) -> float | None:
    """Milliseconds of the last measurement, or None."""
    path = COMPILED.with_name("gpu_speed_torch.csv")
    if not path.exists():
        return None
    wanted = {k: str(v) for k, v in (shape._asdict() | {"loss": loss}).items()}
    with open(path, newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if all(r.get(k) == v for k, v in wanted.items())]
    return next((float(r["ms"]) for r in reversed(rows) if r.get("ms")), None)


def lines() -> list[str]:
    """The table of Jensen-Shannon in bfloat16, milliseconds of the GPU, in Markdown."""
    table = [HEADER, ("---",) * len(HEADER)]
    for n, d in SHAPES:
        for negatives in ("cross", "anchor"):
            shape = Shape(n, d, "bfloat16", negatives)
            found = list((launches(shape) or {}).values())
            fused, chunks = (device_ms(loss, shape) for loss in ("fused", "compiled_chunks"))
            by_unit = [
                sum(getattr(units, name) for units in found)
                for name in ("tensor", "atomics", "memory")
            ]
            arithmetic = sum(max(units.special, units.issue) for units in found)
            rest = (fused or 0.0) - sum(units.device for units in found)
            seen = [measured_ms(loss, shape) for loss in ("fused", "compiled_chunks")]
            numbers = [
                by_unit[0],
                arithmetic,
                *by_unit[1:],
                rest,
                fused,
                chunks,
                ratio(chunks, fused),
                *seen,
                ratio(*seen[::-1]),
            ]
            table.append((str(n), str(d), negatives, *map(short, numbers)))
    return ["| " + " | ".join(row) + " |" for row in table]


def ratio(above: float | None, below: float | None) -> float | None:
    """Their ratio, where both are known."""
    return above / below if above and below else None


def short(value: float | None) -> str:
    """Three digits, or nothing."""
    return f"{value:.3g}" if value else ""


if __name__ == "__main__":
    print(*lines(), sep="\n")
