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

from functools import lru_cache
from typing import NamedTuple

from benchmarks.gpu.cases import Speed
from benchmarks.gpu.table import ROOT, earlier, path_of
from fmicl_core.fused import padded_width, writes_weights

COMPILED = ROOT / "benchmarks" / "results" / "gpu_compiled.csv"
#: Multiprocessors of an H100 or H200, and clocks a second under load.
PROCESSORS, CLOCK = 132, 1.6e9
#: Flops a second: of large products by cuBLAS, and of the tensor cores in a routine of Triton's.
CUBLAS = {"bfloat16": 7.5e14, "float16": 7.5e14, "tf32": 3.7e14, "float32": 5.5e13}
TENSOR = {"bfloat16": 4096, "float16": 4096, "tf32": 2048, "float32": 256}  # a clock
#: Lanes a clock of the special function units and of the schedulers.
SPECIAL, ISSUE = 16, 128
#: Additions a second to float32 numbers in the second-level cache, a guess: of instructions that
#: add one number, two, or four.
ATOMICS = {1: 6e11, 2: 1e12, 4: 1.4e12}
#: Bytes a second from memory, as a copy moves them, and from the second-level cache, a guess.
MEMORY, CACHE = 3.0e12, 7.0e12
#: Milliseconds of Python for a loss with its gradients: ours, and others by their forms.
HOST_MS = {"fused": 0.8, "compiled": 0.3, "products": 0.05}
#: Blocks of a scheme: full ones, and symmetric ones, of which half is enough.
BLOCKS = {"cross": (1, 0), "anchor": (0, 1), "all": (1, 2)}
#: Of what is no fused routine: flops in N K D of a full block and of a symmetric one, and how often
#: a number of every pair is written or read.
PLAIN = {
    "products": (6, 4, 3),
    "products_tiles": (6, 3, 3),
    "compiled_chunks": (8, 8, 7),
    "compiled_dense": (6, 6, 6),
}
#: Losses that are Jensen-Shannon in what a pair costs.
LIKE_JS = ("js", "siglip", "any")


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
    return earlier(COMPILED, {})


def launch(case: Speed, kind: str, pairs: float, library: str) -> Units | None:
    """What the units need for one launch of a kind of routine over so many pairs."""
    wanted = {"library": library, "gpu": "sm_90", "divergence": "js", "dtype": case.dtype,
              "d": str(padded_width(case.d)), "kind": kind}  # fmt: skip
    rows = [row for row in compiled_rows() if all(row[k] == v for k, v in wanted.items())]
    if not rows:
        return None
    row, size = rows[0], size_of(case.dtype)
    count = {k: float(v) for k, v in row.items() if k.endswith("per_pair") and v}
    each = 1e3 * pairs
    if kind != "weights":  # every chunk of the width has a program of its own
        each *= int(row["chunks"])
    clocks = PROCESSORS * CLOCK
    read = case.d * size / int(row["rows"])  # of the columns, by every program
    if kind == "weights":  # and of the rows; what it makes is written to memory
        read += case.d * size / int(row["columns"]) + size * CACHE / MEMORY
    additions = ATOMICS[int(row["atomic_width"] or 0) or 1]
    return Units(
        tensor=each * count["hgmma_flops_per_pair"] / (TENSOR[case.dtype] * clocks),
        special=each * count["mufu_per_pair"] / (SPECIAL * clocks),
        issue=each * count["instructions_per_pair"] / (ISSUE * clocks),
        atomics=each * count["atomics_per_pair"] / additions,
        memory=each * read / CACHE,
        programs=max(1, int(row["programs_per_sm"])),
    )


def size_of(dtype: str) -> int:
    """Bytes of a number."""
    return 2 if dtype in ("bfloat16", "float16") else 4


def launches(case: Speed, library: str = "torch") -> list[Units] | None:
    """The launches of the fused form; None where no machine code was read."""
    pairs, (full, symmetric) = float(case.n) * (case.bank or case.n), BLOCKS[case.negatives]
    alone = library == "jax" or case.form == "fused_deterministic"
    outside, half = writes_weights(case.d, case.dtype), 0.5 * pairs
    kinds: list[tuple[str, float]]
    if case.bank:
        kinds = [("weights" if outside else "rows", pairs)]
    elif outside:
        kinds = [("weights", pairs)] * full
        kinds += [("weights", pairs if library == "jax" else half)] * symmetric
    elif alone:  # no atomics: every program owns rows of one gradient
        kinds = [("rows", pairs)] * (2 * full + symmetric)
    else:
        kinds = [("full", pairs)] * full + [("triangle", half)] * symmetric
    found = [launch(case, kind, count, library) for kind, count in kinds]
    known = [units for units in found if units is not None]
    return known if len(known) == len(found) else None


def cublas_ms(case: Speed) -> float:
    """Milliseconds of the products of weights that are written down, which are cuBLAS's."""
    full, symmetric = BLOCKS[case.negatives]
    flops = 2.0 if case.bank else 4.0 * full + 2.0 * symmetric
    work = float(case.n) * (case.bank or case.n) * case.d
    return 1e3 * flops * work / CUBLAS[case.dtype] if writes_weights(case.d, case.dtype) else 0.0


def device_ms(case: Speed, library: str = "torch") -> float | None:
    """Milliseconds of the GPU for a loss with its gradients; None where nothing is known of it."""
    if case.loss not in LIKE_JS or case.pairs != "rows" or case.negatives not in BLOCKS:
        return None
    if case.form.startswith("fused"):
        found = launches(case, library)
        return None if found is None else sum(u.device for u in found) + cublas_ms(case)
    if case.form not in PLAIN or case.bank:
        return None
    full, symmetric = BLOCKS[case.negatives]
    *flops, touched = PLAIN[case.form]
    pairs = float(case.n) ** 2
    work = (flops[0] * full + flops[1] * symmetric) * pairs * case.d / CUBLAS[case.dtype]
    return 1e3 * (work + (full + symmetric) * touched * size_of(case.dtype) * pairs / MEMORY)


def predicted_ms(case: Speed, library: str = "torch") -> float | None:
    """Milliseconds that a call waits for, Python's among them; None where nothing is known."""
    device = device_ms(case, library)
    host = next((ms for name, ms in HOST_MS.items() if case.form.startswith(name)), 0.0)
    return None if device is None else max(device, host)


#: Shapes of the table: rows, width.
SHAPES = ((8192, 128), (65536, 128), (1 << 20, 128), (8192, 512), (65536, 512), (8192, 1024))
HEADER = (
    "N", "D", "negatives", "tensor cores", "arithmetic", "atomics", "cache", "cuBLAS", "fused, ms",
    "compiled chunks, ms", "ratio", "measured fused, ms", "measured chunks, ms", "measured ratio",
)  # fmt: skip


def measured_ms(case: Speed) -> float | None:
    """Milliseconds of the GPU as measured last, or None."""
    rows = earlier(path_of(COMPILED.parent, Speed, "torch", small=False), case._asdict())
    found = [row.get("device_ms") or row.get("ms") for row in rows]
    return next((float(ms) for ms in reversed(found) if ms), None)


def lines() -> list[str]:
    """The table of Jensen-Shannon in bfloat16, milliseconds of the GPU, in Markdown."""
    table = [HEADER, ("---",) * len(HEADER)]
    for n, d in SHAPES:
        for negatives in ("cross", "anchor"):
            fused, chunks = (Speed("js", form, n, d, "bfloat16", negatives)
                             for form in ("fused", "compiled_chunks"))  # fmt: skip
            found = launches(fused) or []
            tensor, atomics, memory = (
                sum(getattr(units, name) for units in found)
                for name in ("tensor", "atomics", "memory")
            )
            arithmetic = sum(max(units.special, units.issue) for units in found)
            units = tensor, arithmetic, atomics, memory, cublas_ms(fused)
            expected = device_ms(fused), device_ms(chunks)
            seen = measured_ms(fused), measured_ms(chunks)
            numbers = *units, *expected, ratio(*expected), *seen, ratio(*seen)
            table.append((str(n), str(d), negatives, *map(short, numbers)))
    return ["| " + " | ".join(row) + " |" for row in table]


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times as fast ours is, where both are known."""
    return theirs / ours if ours and theirs else None


def short(value: float | None) -> str:
    """Three digits, or nothing."""
    return f"{value:.3g}" if value else ""


if __name__ == "__main__":
    print(*lines(), sep="\n")
