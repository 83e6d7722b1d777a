"""What every loss does with its features first: check, raise the precision, normalise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fmicl_core.checks import (
    InvalidArgument,
    check_bool,
    check_features,
    check_positive,
    check_scalar,
    check_scalar_value,
    invalid,
    lower_end,
    non_finite,
    wide_dtype,
)
from fmicl_core.forms import choose_form
from fmicl_core.objective import DEFAULTS, check_auto
from fmicl_torch.dense import Rows
from fmicl_torch.ops import normalize_rows, unit_rows
from fmicl_torch.transforms import is_batched

#: A number, or a tensor of no dimension, which may learn.
Scalar = float | torch.Tensor


class Auto(NamedTuple):
    """Stands for alpha = "auto", which is found from the batch, with its strength."""

    strength: float

    def over(self, mean: torch.Tensor) -> torch.Tensor:
        """The alpha that is found from the mean of u over the negative pairs.

        NaN where that is infinite: the penalty would be left out, and nothing would say so.
        """
        return self.strength / mean.masked_fill(mean.isinf(), math.nan)


#: Weight of a penalty.
Weight = Scalar | Auto


def check_tensor(argument: str, value: object) -> None:
    """Raise ValueError unless the value is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise invalid(argument, "a torch.Tensor", type(value).__name__, what=f"type({argument})")


def prepare(
    x: torch.Tensor,
    y: torch.Tensor | None,
    bank: torch.Tensor | None,
    normalize: bool,
    has_ids: bool | None = None,
    least: int = 2,
    implementation: str = "dense",
    scale: Scalar | None = None,
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
        scale: factor of x . y, whose square root the rows are multiplied by; or None.

    Raises:
        ValueError: a feature array is no tensor, or shapes, dtypes or devices do not fit.
    """
    check_bool("normalize", normalize)
    given = {"x": x} | {k: v for k, v in (("y", y), ("bank", bank)) if v is not None}
    for name, value in given.items():
        check_tensor(name, value)
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
        factor = None if scale is None else as_tensor(scale, rows["x"]).sqrt()
        if not normalize:
            return rows if factor is None else {k: v * factor for k, v in rows.items()}
        n, k = largest_block(rows, bool(has_ids))
        dense = choose_form(implementation, n, k, fused=True) == "dense"
        unit = normalize_rows if dense else unit_rows
        return {name: unit(value, factor) for name, value in rows.items()}


def largest_block(rows: Rows, has_ids: bool) -> tuple[int, int]:
    """Rows and columns of the largest block of pairs of these features."""
    n, k = len(rows["x"]), len(rows.get("bank", rows["x"]))
    return n, max(n, k) if has_ids else k  # positives are among the rows of x and y


@torch.compiler.disable
def refuse_scalar(name: str, value: float) -> float:
    """Raise our error, outside of compiled code, which cannot."""
    return float(check_scalar(name, value, None))


def scalar_of(name: str, value: Scalar | None, read: bool = False) -> Scalar:
    """A scalar of a loss, checked.

    Args:
        name: name of the argument, as for `fmicl_core.checks.check_scalar`.
        value: value of the argument, as given to the loss; None is refused.
        read: whether the value of a tensor is checked, too, unless it is compiled or vmapped.

    Raises:
        ValueError: the value is no finite number, > 0 where it has to be, and no tensor of no
            dimension that holds one.
    """
    if torch.compiler.is_compiling() and isinstance(value, float | int):
        # Dynamo takes it for a symbol as soon as it changes, and keeps to one graph.
        within = lower_end(name) < value < math.inf
        return value if within else refuse_scalar(name, value)
    if not isinstance(value, torch.Tensor):
        return float(check_scalar(name, value, None))
    check_scalar(name, value, value.shape)
    if read and not torch.compiler.is_compiling() and not is_batched(value):
        check_scalar_value(name, value.item())
    return value


def weight_of(alpha: Scalar | str, strength: float | None) -> Weight:
    """The weight that these two arguments of a loss stand for; of "auto" checked.

    Raises:
        ValueError: alpha is another text, or the strength is no number > 0, or one beside a number.
    """
    if not check_auto(alpha, strength):
        return alpha  # type: ignore[return-value]
    if strength is None:
        return Auto(DEFAULTS.strength)
    if isinstance(strength, torch.Tensor):
        check_positive("strength", strength)  # which no tensor is
    return Auto(scalar_of("strength", strength))  # type: ignore[arg-type]


def as_tensor(value: Scalar, like: torch.Tensor) -> torch.Tensor:
    """A scalar of a loss as a tensor of no dimension, in the dtype of the rows, on their device."""
    if isinstance(value, torch.Tensor):
        return value.to(like.device, like.dtype)
    # Dynamo keeps a number that is a factor as a symbol; one that fills a tensor is a constant.
    return torch.ones((), dtype=like.dtype, device=like.device) * value


def explain_non_finite(
    x: torch.Tensor, y: torch.Tensor | None, bank: torch.Tensor | None
) -> InvalidArgument | None:
    """The error that names the argument and the rows with NaN or infinity, if there are any."""
    for name, value in (("x", x), ("y", y), ("bank", bank)):
        if value is not None and not value.isfinite().all():
            rows = (~value.isfinite()).any(dim=1).nonzero().flatten().tolist()
            return non_finite(name, rows)
    return None
