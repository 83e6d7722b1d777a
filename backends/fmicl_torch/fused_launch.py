"""What a launch of the fused routine of `fmicl_torch.fused` is made of."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from fmicl_core import Pairwise
from fmicl_core.fused import LARGE_MEMORY, LEAST_MEMORY, Tiles
from fmicl_torch.fused_formulas import Formulas, triton_formulas


class Launch(NamedTuple):
    """What stays the same between the launches of one block."""

    pairwise: Pairwise
    skips_diagonal: bool
    dtype: torch.dtype
    atomic: bool
    pairs: str = "all"  # that count by their numbers; or "different", "equal"
    bias: str = "none"  # what is added to z: "none", numbers of "rows" or one, "constant"

    @property
    def formulas(self) -> Formulas:
        """The formulas of the pairs that count, as Triton code."""
        return triton_formulas(self.pairwise, self.pairs == "equal")


class Sums(NamedTuple):
    """What a pass over one block adds up; gradients are still to be scaled."""

    total: torch.Tensor
    grad_left: torch.Tensor
    grad_right: torch.Tensor
    mass_left: torch.Tensor | None
    mass_right: torch.Tensor | None
    slope: torch.Tensor | None  # of the total in the constant of z, where it is given


class Side(NamedTuple):
    """The rows on one side of a block, as a launch takes them.

    Args:
        length: number N of the rows; more of them, zeros, fill the last tile.
        rows: features (N, D), padded to the width of the tiles, in the dtype of the products.
        bias: numbers (N,) to add to z, of squared lengths; or the constant of z, (1,); or none.
        numbers: numbers (N,) of the rows, int32, or None.
    """

    length: int
    rows: torch.Tensor
    bias: torch.Tensor
    numbers: torch.Tensor | None


def constants(
    pairwise: Pairwise, pairs: str, dtype: torch.dtype, chunks: int, tiles: Tiles
) -> dict[str, Any]:
    """The constants that the fused routine is compiled for, apart from the kind of block."""
    import triton.language as tl

    from fmicl_torch.fused_functions import evaluator

    tf32 = dtype != torch.float32 or tf32_allowed()
    formulas = triton_formulas(pairwise, pairs == "equal")
    return {
        "EVALUATE": evaluator(formulas.source), "SUMS": formulas.sums,
        "VANISHES": formulas.vanishes,
        "PAIRS": pairs,
        "ROWS": tiles.rows, "COLS": tiles.columns, "WIDTH": tiles.width,
        "CHUNKS": chunks,
        # Weights can leave the range of float16; tf32 has its digits and the range of float32.
        "OPERAND": tl.bfloat16 if dtype == torch.bfloat16 else tl.float32,
        "PRECISION": "tf32" if tf32 else "ieee",
    }  # fmt: skip


def interpreted() -> bool:
    """Whether Triton runs its routines in Python, which it decides when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def tf32_allowed() -> bool:
    """Whether the user lets PyTorch round float32 products to tf32."""
    settings = torch.backends.cuda.matmul
    if hasattr(settings, "fp32_precision"):  # PyTorch 2.9 and later
        return bool(settings.fp32_precision == "tf32")
    return bool(settings.allow_tf32)


def facts(x: torch.Tensor) -> tuple[int, int]:
    """Processors of the GPU of x, and bytes of shared memory a program may use there."""
    return _facts_of(x.device.index) if x.device.type == "cuda" else (1, LARGE_MEMORY)


@lru_cache(maxsize=64)
def _facts_of(index: int) -> tuple[int, int]:
    facts = torch.cuda.get_device_properties(index)
    memory = getattr(facts, "shared_memory_per_block_optin", LEAST_MEMORY)
    return facts.multi_processor_count, memory
