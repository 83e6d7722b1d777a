"""What the fused GPU routines of all backends share: their tiles, their limits, and the refusals.

The tiles fit registers and shared memory (tools/compile_fused.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_core.forms import FUSED, IMPLEMENTATIONS

#: Features may be this wide. Beyond the widest tile, scores are computed once for every tile.
MAX_WIDTH = 1024
#: NVIDIA's compute capability from which on the fused routines run: tensor cores with bfloat16.
LEAST_CAPABILITY = (8, 0)
#: Bytes of shared memory that the large tiles need at most; an H100 has 227 KiB, an A100 163.
LARGE_MEMORY = 208 * 1024
#: Bytes of shared memory that any such GPU has, where its driver does not say.
LEAST_MEMORY = 99 * 1024

#: e^x is 2^(x log2 e), which GPUs compute in one instruction.
LOG2_E = math.log2(math.e)


class Tiles(NamedTuple):
    """Rows, columns and width of the tiles; warps and pipeline stages of a program.

    Args:
        registers: most registers of a thread, so that two programs share a processor; None: 255.
    """

    rows: int
    columns: int
    width: int
    warps: int
    stages: int
    registers: int | None = None


class Case(NamedTuple):
    """A case of `TILES`.

    Args:
        products: dtypes of the products: "ieee" and "tf32" of float32 numbers, "float16",
            "bfloat16".
        widest: largest width of the features.
        memory: bytes of shared memory that a program needs at least.
        atomic: whether a program also holds the update of the columns' gradient; None: either.
        tiles: tiles of the case; no wider than the features.
    """

    products: tuple[str, ...]
    widest: int
    memory: int
    atomic: bool | None
    tiles: Tiles


_16_BITS = "float16", "bfloat16"
#: The tiles of the fused routines; the first case that fits counts. Chosen by the machine code for
#: an H100 (docs/gpu.md): no spilled registers, or few, and two programs a processor, one of which
#: multiplies while the other computes weights. No GPU has tuned them yet.
TILES = (
    Case(("ieee",), MAX_WIDTH, 0, None, Tiles(32, 32, 128, 4, 2)),
    Case(("bfloat16",), 128, LARGE_MEMORY, True, Tiles(128, 64, 128, 8, 2, 128)),
    Case(("bfloat16",), 128, LARGE_MEMORY, False, Tiles(128, 64, 128, 8, 3, 128)),
    Case(("float16",), 128, LARGE_MEMORY, None, Tiles(128, 64, 128, 8, 3)),
    Case(("tf32",), MAX_WIDTH, LARGE_MEMORY, None, Tiles(64, 64, 128, 8, 2)),
    Case(_16_BITS, 256, LARGE_MEMORY, None, Tiles(64, 64, 256, 8, 2)),
    Case(("bfloat16",), 512, LARGE_MEMORY, False, Tiles(64, 64, 512, 8, 2)),
    Case(_16_BITS, MAX_WIDTH, LARGE_MEMORY, None, Tiles(64, 64, 256, 8, 2)),
    Case(("tf32",), 64, 0, None, Tiles(64, 64, 128, 8, 2)),
    Case(("tf32",), MAX_WIDTH, 0, None, Tiles(32, 32, 128, 4, 2)),
    Case(_16_BITS, MAX_WIDTH, 0, None, Tiles(64, 64, 128, 8, 2)),
)


def padded_width(d: int) -> int:
    """Columns that features of D = `d` have, at most, once zeros fill the width of a tile."""
    return max(16, 1 << (d - 1).bit_length())  # powers of two, and tensor cores need 16


def tiles_for(d: int, dtype: str, tf32: bool, memory: int, atomic: bool) -> Tiles:
    """Tiles that fit registers and memory, of the first case of `TILES`.

    Args:
        d: width of the features.
        dtype: dtype of the products, "float16", "bfloat16" or "float32".
        tf32: whether products of float32 numbers may round them to tf32.
        memory: bytes of shared memory a program may use.
        atomic: whether a program also holds the update of the columns' gradient.
    """
    products, width = dtype if dtype != "float32" else "tf32" if tf32 else "ieee", padded_width(d)
    tiles = next(
        case.tiles for case in TILES
        if products in case.products and width <= case.widest and memory >= case.memory
        and case.atomic in (None, atomic)
    )  # fmt: skip
    return tiles._replace(width=min(width, tiles.width))


def writes_weights(d: int, dtype: str) -> bool:
    """Whether a fused routine had better write weights down, for products outside of it.

    On paper (docs/gpu.md): with D > 128 the tiles of a program that keeps its gradient become so
    small that reading features and adding gradients take longer than the products.

    Args:
        d: width of the features.
        dtype: dtype of the products.
    """
    return d > 128 and dtype == "bfloat16"


def weight_tiles(memory: int) -> Tiles:
    """Tiles of the routine that writes weights down; its width is a piece of the first product.

    Args:
        memory: bytes of shared memory a program may use.
    """
    return Tiles(128, 128, 64, 8, 3 if memory >= LARGE_MEMORY else 2, 128)


def parts_for(processors: int, n: int, k: int, chunks: int, tiles: Tiles) -> int:
    """Number of parts that the columns are cut into, so that a small batch fills every processor.

    Args:
        processors: number of processors of the GPU.
        n: number of rows.
        k: number of columns.
        chunks: number of programs that share the width of the same rows.
        tiles: tiles of a program.
    """
    wanted = 2 * processors // (-(-n // tiles.rows) * chunks)
    return min(max(1, wanted), -(-k // tiles.columns))


def refusal(device: str, capability: tuple[int, int] | None, dtype: str) -> str:
    """Why no fused routine takes features of this kind, whatever their width, or "".

    Args:
        device: name of the kind of device that holds the features, as the framework calls it.
        capability: compute capability of that device, or None where it is no GPU of NVIDIA.
        dtype: name of the features' dtype.
    """
    if capability is None:
        return f"The fused form needs features on an NVIDIA GPU, not on {device!r}."
    if capability < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"The fused form needs an NVIDIA GPU of compute capability {least} or more."
    if dtype == "float64":
        return "The fused form accumulates in float32, too little for float64 features."
    return ""


def too_wide(d: int) -> str:
    """Why no fused routine takes features of D = `d`, or ""."""
    return "" if d <= MAX_WIDTH else f"The fused form takes D <= {MAX_WIDTH}, not {d}."


def refused(why: str) -> InvalidArgument:
    """The error where the fused routine was asked for and there is none for these features."""
    others = ", ".join(repr(name) for name in IMPLEMENTATIONS)
    return invalid("implementation", f"one of {others} for this input", FUSED, why=why)
