"""Checks of single options: from an option's name and value to the value as it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fmicl_core.checks import check_at_least, check_number, check_positive, invalid
from fmicl_core.objective import check_auto

#: Returns the value, or raises an error that names the option and what was expected.
Check = Callable[[str, Any], Any]


def at_least(low: int, high: int | None = None) -> Check:
    """A check for whole numbers >= `low`, and <= `high` if there is a most that makes sense."""

    def check(name: str, value: Any) -> int:
        number = check_at_least(name, value, low)
        if high is not None and number > high:
            raise invalid(name, f"a whole number <= {high}", value)
        return number

    return check


def check_text(name: str, value: Any) -> str:
    """Return `value` when it is a string."""
    if not isinstance(value, str):
        raise invalid(name, "a string", value)
    return value


def check_alpha(name: str, value: Any) -> float | str:
    """Return `value` when it is a weight of f-MICL, a finite number > 0 as a float, or "auto"."""
    return str(value) if check_auto(value, None) else check_positive(name, value)


def check_not_negative(name: str, value: Any) -> float:
    """Return `value` as a float when it is a finite number >= 0."""
    number = check_number(name, value)
    if number < 0.0:
        raise invalid(name, "a finite number >= 0", value)
    return number


def unit_interval(ends: str) -> Check:
    """A check for numbers from 0 to 1; `ends` as they are printed, "[)" for 0 <= value < 1."""

    def check(name: str, value: Any) -> float:
        number = check_number(name, value)
        if (
            not 0.0 <= number <= 1.0
            or (number == 0.0 and ends[0] == "(")
            or (number == 1.0 and ends[1] == ")")
        ):
            raise invalid(name, f"a number in {ends[0]}0, 1{ends[1]}", value)
        return number

    return check


#: How JAX is told that it may compute in float64.
ENABLE_X64 = (
    "JAX_ENABLE_X64=1 in the environment lets it, or jax.config.update('jax_enable_x64', True)."
)


def check_jax_precision(precision: str, x64: bool) -> None:
    """Check that JAX computes in float64 where settings ask for it.

    Args:
        precision: precision of the settings.
        x64: value of JAX's option `jax_enable_x64`.

    Raises:
        ValueError: it does not.
    """
    if precision == "64" and not x64:
        expected = "'32' or 'bf16' while JAX knows no float64"
        raise invalid("precision", expected, precision, why=ENABLE_X64)


def check_seed(name: str, value: Any) -> int:
    """Return `value` when it is a whole number in [0, 2^32), which every framework takes."""
    if check_at_least(name, value, 0) >= 2**32:
        raise invalid(name, "a whole number in [0, 2^32)", value)
    return int(value)


def is_history(rows: Any) -> bool:
    """Whether rows are those of a history: finite numbers by name, all with a loss."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and "loss" in row and all(isinstance(name, str) for name in row)
        and all(map(is_number, row.values()))
        for row in rows
    )  # fmt: skip


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return type(value) in (int, float) and math.isfinite(value)
