"""What is checked and timed on a GPU, and in which order; knows of no framework."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from fmicl_core import DIVERGENCES, FMICL, Gaussian, Laplace, get_divergence
from fmicl_core.pairs import NEGATIVES

#: Forms of each library. "fused_value" is the fused routine without a gradient.
FORMS = {
    "torch": ("fused", "fused_deterministic", "fused_value", "tiled", "dense"),
    "jax": ("fused", "fused_value", "tiled", "dense"),
}
DTYPES = ("bfloat16", "float16", "tf32", "float32")
#: Largest relative error of the loss and of the gradient that passes.
LIMIT = {"float32": 5e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}
#: Flops that no exact method can avoid, in N^2 D; a symmetric block needs half of a full one.
FLOPS = {"cross": 6, "anchor": 3}
#: Rows of a chunk of the baseline that tiles as Inf-CL does, and most rows of the dense forms.
CHUNK, DENSE_ROWS = 2048, 32768
#: Most rows for which a matrix of all pairs in 16 bits is made for the products alone.
WHOLE_ROWS = 65536
#: Rows of a check; the first leaves edges in every tile, the second in none.
CHECK_ROWS = 700, 768
#: What is done in turn, in the order of what it tells.
STAGES = {
    1: "every family of routines against float64",
    2: "N = 8,192 and 65,536, D = 128, bfloat16",
    3: "N = 1,048,576",
    4: "D = 512",
    5: "small N",
    6: "other dtypes at N = 8,192",
    7: "all other checks",
    8: "all other speeds",
}
#: Sizes of a rehearsal on a CPU, where routines are interpreted.
SMALL = {700: 150, 768: 128, 512: 64, 1024: 96, 8192: 256, 32768: 320, 65536: 384, 1 << 20: 512}
SMALL_WIDTHS = {128: 32, 512: 64}


class Check(NamedTuple):
    """One loss with its gradient to be compared with the float64 reference."""

    form: str
    divergence: str
    similarity: str
    negatives: str
    bank: bool
    dtype: str
    n: int
    d: int
    normalize: bool = True

    @property
    def bank_rows(self) -> int:
        """Rows of the bank, or 0 without one."""
        return self.n + self.n // 3 if self.bank else 0

    def objective(self) -> FMICL:
        """The settings; kernels of features that are not normalised have their scale."""
        scaled = {"gaussian": Gaussian(self.d / 2.0), "laplace": Laplace(math.sqrt(self.d))}
        similarity = self.similarity if self.normalize else scaled[self.similarity]
        return FMICL(
            self.divergence, similarity, negatives=self.negatives, normalize=self.normalize
        )


class Speed(NamedTuple):
    """One loss to be timed at one size."""

    loss: str
    n: int
    d: int
    dtype: str
    negatives: str

    @property
    def flops(self) -> float:
        """Those that no exact method can avoid."""
        return float(FLOPS[self.negatives]) * self.n**2 * self.d

    @property
    def repeats(self) -> int:
        """How often it is timed."""
        return 10 if self.n < 32768 else 3 if self.n < 1 << 20 else 1


class Result(NamedTuple):
    """Features as the loss saw them (x, y and perhaps a bank), and what it made of them; float64.

    There are no gradients where only the value was asked for.
    """

    features: tuple[np.ndarray, ...]
    loss: float
    gradients: tuple[np.ndarray, ...]


class Task(NamedTuple):
    """A case, its library, and the stage to which it belongs; the first tells most."""

    stage: int
    library: str
    case: Check | Speed

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from every other, as text, as it stands in a CSV file."""
        return self.library, type(self.case).__name__, *map(str, self.case)


#: Every family of routines: each dtype with one piece of the width and with several, symmetric and
#: full blocks, with atomics and without, value alone, normalised and raw features; each formula.
COVER = {
    "torch": """
        fused               kl                gaussian cross  -    bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit
        fused_deterministic js                gaussian all    -    bfloat16 128  unit
        fused_value         js                gaussian anchor -    bfloat16 128  unit
        fused               js                gaussian anchor bank bfloat16 128  unit
        fused               pearson           gaussian all    -    float16  64   unit
        fused               tsallis           cauchy   all    -    tf32     64   unit
        fused               vlc               laplace  all    -    float32  128  unit
        fused               squared_hellinger laplace  within -    bfloat16 100  unit
        fused               jeffreys          gaussian cross  -    bfloat16 200  unit
        fused               kl                cosine   all    -    bfloat16 256  unit
        fused               js                gaussian all    -    bfloat16 64   raw
        fused               js                gaussian all    -    bfloat16 512  unit
        fused_deterministic kl                gaussian all    -    bfloat16 512  unit
        fused               vlc               gaussian all    -    float16  1024 raw
        fused               js                gaussian all    -    tf32     768  unit
        fused               js                gaussian all    -    float32  512  raw
        fused               kl                gaussian cross  bank tf32     128  raw
        fused_deterministic tsallis           gaussian within -    float16  1024 unit
        fused_deterministic vlc               gaussian anchor bank tf32     768  unit
        fused_deterministic squared_hellinger cauchy   cross  -    float32  100  unit
        fused_deterministic js                laplace  all    -    bfloat16 200  raw
        fused_deterministic jeffreys          gaussian within bank float16  64   unit
        fused_value         kl                gaussian cross  -    float32  512  unit
        fused_value         js                gaussian all    -    float16  200  raw
        fused               js                gaussian within -    bfloat16 5    unit
        fused               js                gaussian cross  -    float32  5    unit
        fused               js                gaussian anchor -    bfloat16 1024 unit
        tiled                js                gaussian all    -    bfloat16 128  unit
        tiled                pearson           cauchy   cross  bank float32  512  unit
        tiled                kl                gaussian within -    tf32     64   raw
        dense                kl                cosine   anchor -    float16  128  unit
    """,
    "jax": """
        fused               kl                gaussian cross  -    bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit
        fused_value         js                gaussian anchor -    bfloat16 128  unit
        fused               pearson           gaussian all    -    float16  64   unit
        fused               tsallis           cauchy   all    -    tf32     100  unit
        fused               vlc               laplace  all    -    float32  128  unit
        fused               squared_hellinger gaussian within -    bfloat16 512  unit
        fused               jeffreys          gaussian all    -    bfloat16 1024 unit
        fused               js                gaussian all    -    float16  200  raw
        fused               js                gaussian cross  bank tf32     768  raw
        fused               js                gaussian all    -    float32  512  raw
        fused               js                gaussian anchor bank bfloat16 200  raw
        fused               kl                cosine   cross  -    float32  5    unit
        fused_value         kl                gaussian all    -    tf32     256  unit
        tiled                js                gaussian all    -    bfloat16 128  unit
        tiled                kl                gaussian cross  bank float32  512  unit
        dense                vlc               laplace  within -    tf32     64   raw
    """,
}


def covering(library: str) -> list[Check]:
    """The few checks that between them meet every family of routines."""
    lines = (line.split() for line in COVER[library].strip().splitlines())
    return [
        Check(form, divergence, similarity, negatives, bank == "bank", dtype,
              CHECK_ROWS[i % 2], int(d), rows == "unit")
        for i, (form, divergence, similarity, negatives, bank, dtype, d, rows) in enumerate(lines)
    ]  # fmt: skip


def all_checks(library: str) -> Iterator[Check]:
    """Each divergence, scheme, form and dtype; raw features; each width of the fused routines."""
    n = CHECK_ROWS[0]
    forms = [form for form in FORMS[library] if form != "fused_value"]
    for form in forms:
        for dtype in DTYPES:
            for divergence in suitable():
                for negatives in NEGATIVES:
                    yield Check(form, divergence, "gaussian", negatives, False, dtype, n, 64)
            if form.startswith("fused"):
                yield Check(form, "js", "gaussian", "all", False, dtype, n, 64, normalize=False)
                for d in (5, 100, 128, 200, 512, 768, 1024):
                    yield Check(form, "js", "gaussian", "all", False, dtype, n, d)


def suitable() -> list[str]:
    """The divergences that keep features apart."""
    return [name for name in DIVERGENCES if get_divergence(name).suitable]


def losses(library: str, n: int) -> tuple[str, ...]:
    """What is compared at so many rows: the products alone, ours, and the baselines."""
    whole = ("products",) if n <= WHOLE_ROWS else ()
    dense = n <= DENSE_ROWS
    if library == "jax":
        return ("fused", *whole, "products_tiles", "jit_chunks", "tiled") + ("dense",) * dense
    return (
        "fused", *whole, "products_tiles", "compiled_chunks", *("compiled_dense",) * dense,
        "tiled", "fused_deterministic", *("dense",) * dense,
    )  # fmt: skip


def tile_rows(n: int) -> int:
    """Rows of a tile of the products alone: a part of n, at most half a GiB in 16 bits."""
    return max(1, math.gcd(n, min(CHUNK, (1 << 28) // n), n // 2))


def sizes(library: str) -> Iterator[tuple[int, Speed]]:
    """The stage of each speed, with the speed; one can come twice, and its first stage counts.

    Within a stage each loss comes at all sizes before the next.
    """
    few, million = ("fused", "tiled", "products"), 1 << 20
    stages = (
        (2, (8192, 65536), 128, ("bfloat16",), ()),
        (3, (million,), 128, ("bfloat16",), ("fused", "products_tiles")),
        (4, (8192, 65536), 512, ("bfloat16",), ()),
        (5, (512, 1024), 128, ("bfloat16", "float32"), ()),
        (6, (8192,), 128, DTYPES, few),
        (8, (512, 1024, 8192, 32768), 128, DTYPES, ()),
        (8, (8192,), 512, DTYPES, ()),
        (8, (million,), 128, ("float32",), ("fused",)),
    )
    for stage, rows, d, dtypes, only in stages:
        for loss in only or losses(library, min(rows)):
            for n, dtype, negatives in product(rows, dtypes, FLOPS):
                if loss in losses(library, n):
                    yield stage, Speed(loss, n, d, dtype, negatives)


def plan(library: str, small: bool = False) -> list[Task]:
    """All that there is to do with a library, by `STAGES`, each case once.

    Args:
        library: "torch" or "jax".
        small: sizes that a CPU can interpret.
    """
    found = [(1, case) for case in covering(library)]
    found += list(sizes(library)) + [(7, case) for case in all_checks(library)]
    tasks: dict[tuple[str, ...], Task] = {}
    for stage, case in sorted(found, key=lambda pair: pair[0]):
        task = Task(stage, library, shrunk(case) if small else case)
        tasks.setdefault(task.key, task)
    return list(tasks.values())


def shrunk(case: Check | Speed) -> Check | Speed:
    """The same case at a size for a CPU."""
    n, d = SMALL[case.n], case.d
    return case._replace(n=n, d=SMALL_WIDTHS.get(d, d) if isinstance(case, Speed) else min(d, 150))
