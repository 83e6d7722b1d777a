"""What every loss does with its features first: check, raise the precision, normalise."""

from __future__ import annotations

import torch

from fmicl_core.checks import (
    InvalidArgument,
    check_bool,
    check_features,
    invalid,
    non_finite,
)
from fmicl_core.objective import choose_implementation
from fmicl_torch.dense import Rows
from fmicl_torch.ops import UnitRows, normalize_rows


def prepare(
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    normalize: bool,
    *,
    least: int = 2,
    implementation: str = "dense",
) -> Rows:
    """Checked features by name, in float32 at least, of unit length where asked for.

    Args:
        x: first view.
        y: second view.
        bank: negatives, or None.
        normalize: scale rows to unit length.
        least: rows that x needs without a bank; 1 for a shard of a distributed batch.
        implementation: what the loss will use. All but the dense form can be differentiated once,
            and so can their unit rows, which keep less in memory.

    Raises:
        ValueError: a feature array is no tensor, or shapes, dtypes or devices do not fit.
    """
    check_bool("normalize", normalize)
    given = {"x": x, "y": y} | ({} if bank is None else {"bank": bank})
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise invalid(name, "a torch.Tensor", type(value).__name__, what=f"type({name})")
    check_features(
        x.shape,
        y.shape,
        None if bank is None else bank.shape,
        [str(value.dtype).removeprefix("torch.") for value in given.values()],
        [str(value.device) for value in given.values()],
        least,
    )
    with torch.autocast(x.device.type, enabled=False):
        rows = {k: v if v.dtype == torch.float64 else v.float() for k, v in given.items()}
        if not normalize:
            return rows
        k = len(x if bank is None else bank)
        dense = choose_implementation(implementation, len(x), k, kernel=True) == "dense"
        unit = normalize_rows if dense else UnitRows.apply
        return {name: unit(value) for name, value in rows.items()}


def explain_non_finite(
    x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None
) -> InvalidArgument | None:
    """The error that names the argument and the rows with NaN or infinity, if there are any."""
    for name, value in (("x", x), ("y", y), ("bank", bank)):
        if value is not None and not value.isfinite().all():
            rows = (~value.isfinite()).any(dim=1).nonzero().flatten().tolist()
            return non_finite(name, rows)
    return None
