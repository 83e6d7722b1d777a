"""What every loss does with its features first: check, raise the precision, normalise."""

from __future__ import annotations

import math

import torch

from fmicl_core.checks import (
    InvalidArgument,
    check_alpha,
    check_alpha_value,
    check_bool,
    check_features,
    check_positive,
    invalid,
    non_finite,
    wide_dtype,
)
from fmicl_core.forms import choose_form
from fmicl_torch.dense import Rows
from fmicl_torch.ops import normalize_rows, unit_rows
from fmicl_torch.transforms import is_batched


def prepare(
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    normalize: bool,
    has_ids: bool | None = None,
    least: int = 2,
    implementation: str = "dense",
) -> Rows:
    """Checked features by name, in one dtype of float32 at least, of unit length where asked for.

    Args:
        x: features of the first view.
        y: features of the second view; None, where the caller left it out, is refused without ids.
        bank: features of the bank of negatives, or None.
        normalize: whether rows are scaled to unit length.
        has_ids: whether ids say which rows of x belong together; None for a loss that takes none.
        least: rows that x needs without a bank; 1 for a shard of a distributed batch.
        implementation: name of the form, or "auto". All but the dense form can be differentiated
            once, and so can their unit rows, which keep less in memory.

    Raises:
        ValueError: a feature array is no tensor, or shapes, dtypes or devices do not fit.
    """
    check_bool("normalize", normalize)
    given = {"x": x} | {k: v for k, v in (("y", y), ("bank", bank)) if v is not None}
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise invalid(name, "a torch.Tensor", type(value).__name__, what=f"type({name})")
    dtypes = [str(value.dtype).removeprefix("torch.") for value in given.values()]
    check_features(
        x.shape,
        None if y is None else y.shape,
        None if bank is None else bank.shape,
        dtypes,
        [str(value.device) for value in given.values()],
        least,
        "torch",
        has_ids,
    )
    wide = getattr(torch, wide_dtype(dtypes))
    with torch.autocast(x.device.type, enabled=False):
        rows = {k: v.to(wide) for k, v in given.items()}
        if not normalize:
            return rows
        n, k = largest_block(rows, bool(has_ids))
        dense = choose_form(implementation, n, k, fused=True) == "dense"
        unit = normalize_rows if dense else unit_rows
        return {name: unit(value) for name, value in rows.items()}


def largest_block(rows: Rows, has_ids: bool) -> tuple[int, int]:
    """Rows and columns of the largest block of pairs of these features."""
    n, k = len(rows["x"]), len(rows.get("bank", rows["x"]))
    return n, max(n, k) if has_ids else k  # positives are among the rows of x and y


@torch.compiler.disable
def alpha_must_be_a_finite_number_above_0(alpha: float) -> float:
    """Raise our error, outside of compiled code, which cannot."""
    return check_positive("alpha", alpha)


def weight_of(alpha: float | torch.Tensor, read: bool = False) -> float | torch.Tensor:
    """alpha, checked.

    Args:
        alpha: weight of the negative term, as given to the loss.
        read: whether the value of a tensor is checked, too, unless it is compiled or vmapped.

    Raises:
        ValueError: alpha is no finite number > 0 and no tensor of no dimension that holds one.
    """
    if torch.compiler.is_compiling() and isinstance(alpha, float | int):
        # Dynamo takes it for a symbol as soon as it changes, and keeps to one graph.
        return alpha if 0 < alpha < math.inf else alpha_must_be_a_finite_number_above_0(alpha)
    if not isinstance(alpha, torch.Tensor):
        return check_alpha(alpha, None)
    check_alpha(alpha, alpha.shape)
    if read and not torch.compiler.is_compiling() and not is_batched(alpha):
        check_alpha_value(alpha.item())
    return alpha


def explain_non_finite(
    x: torch.Tensor, y: torch.Tensor | None, bank: torch.Tensor | None
) -> InvalidArgument | None:
    """The error that names the argument and the rows with NaN or infinity, if there are any."""
    for name, value in (("x", x), ("y", y), ("bank", bank)):
        if value is not None and not value.isfinite().all():
            rows = (~value.isfinite()).any(dim=1).nonzero().flatten().tolist()
            return non_finite(name, rows)
    return None
