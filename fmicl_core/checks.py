"""Every error message about options and shapes, worded once for all backends.

Backends hand over plain shapes, dtype names and device names, so that the same mistake gives the
same message in every framework.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")

Shape = Sequence[int | None]

# What is expected of sizes, for `check_features` and for graphs that check sizes when they run.
#: Scalars of a loss that may have any sign; the others, such as alpha, are > 0.
ANY_SIGN = ("logit_bias",)
OR_ARRAY = ", or an array of no dimension that holds one"
SOME_FEATURE = "at least one feature, D >= 1"
#: By the rows that x needs without a bank: one where other ranks hold more of the batch.
ROWS_OF_X = {1: "at least one row, N >= 1", 2: "at least two rows, N >= 2, or a `bank`"}
SHAPE_OF_X = "the shape of `x`"
SOME_ROW = "at least one row, {rows} >= 1"
WHOLE_NUMBERS = "whole numbers, in a dtype such as int64 or int32"
WIDTH_OF_X = "the width of `x`"

#: How two views in one array are taken apart, by the library that holds the array.
SPLITS = {
    "numpy": "np.split(features, 2)",
    "torch": "features.chunk(2)",
    "jax": "jnp.split(features, 2)",
    "tensorflow": "tf.split(features, 2)",
}


class InvalidArgument(ValueError):
    """An argument that the library refuses, in its own words; any other ValueError is a bug."""


def invalid(
    argument: str, expected: str, received: Any, *, what: str | None = None, why: str | None = None
) -> InvalidArgument:
    """Build the one error of this library.

    Args:
        argument: name of the offending argument.
        expected: description of what would have been accepted.
        received: value that came instead, shown by its `repr`.
        what: label of the received value, when it is not the argument itself (`y.shape`).
        why: reason, when the expectation alone does not explain itself.
    """
    reason = f" {why}" if why else ""
    return InvalidArgument(
        f"{expectation(argument, expected)}{reason} Received: {what or argument}={received!r}"
    )


def expectation(argument: str, expected: str) -> str:
    """How every error of this library begins; the rest says what was received."""
    return f"Invalid value for argument `{argument}`. Expected {expected}."


def check_choice(argument: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` when it is one of `choices`, else raise an error that lists them."""
    names = tuple(choices)
    if not isinstance(value, str) or value not in names:
        raise invalid(argument, "one of " + ", ".join(repr(n) for n in names), value)
    return value


def spelled(value: Any, names: Iterable[str]) -> Any:
    """The entry of `names` that `value` spells, "-" and "_" being alike, or else `value` itself."""
    if not isinstance(value, str):
        return value
    alike = (name for name in names if name.replace("-", "_") == value.replace("-", "_"))
    return next(alike, value)


def check_name(argument: str, value: Any, names: Iterable[str]) -> str:
    """`check_choice` of names that may be written with "-" or "_"; returns the name as we do."""
    names = tuple(names)
    return check_choice(argument, spelled(value, names), names)


def check_number(argument: str, value: Any) -> float:
    """Return `value` as a float when it is a finite real number."""
    return _real(argument, value, "a finite number", lambda v: True)


def check_positive(argument: str, value: Any) -> float:
    """Return `value` as a float when it is a finite number > 0."""
    return _real(argument, value, "a finite number > 0", lambda v: v > 0)


def check_scalar(argument: str, value: Any, shape: Shape | None) -> Any:
    """Return a scalar of a loss: a float, or an array of no dimension as it is.

    Args:
        argument: name of the argument: "alpha", "temperature", "logit_scale", which are > 0, or one
            in `ANY_SIGN`.
        value: value of the argument.
        shape: shape of `value` where it is an array of the framework, whose value is not read here.
    """
    if shape is None:
        return (check_number if argument in ANY_SIGN else check_positive)(argument, value)
    if len(shape) > 0:
        raise invalid(argument, _scalar(argument), tuple(shape), what=f"{argument}.shape")
    return value


def check_scalar_value(argument: str, value: float) -> None:
    """Check the number that an array given for a scalar of a loss holds."""
    if not lower_end(argument) < value < math.inf:
        raise invalid(argument, _scalar(argument), value)


def lower_end(argument: str) -> float:
    """What a scalar of a loss has to be above."""
    return -math.inf if argument in ANY_SIGN else 0.0


def _scalar(argument: str) -> str:
    return f"a finite number{'' if argument in ANY_SIGN else ' > 0'}{OR_ARRAY}"


def check_at_least(argument: str, value: Any, low: int) -> int:
    """Return `value` when it is a whole number >= `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise invalid(argument, f"a whole number >= {low}", value)
    return value


def check_bool(argument: str, value: Any) -> bool:
    """Return `value` when it is True or False."""
    if not isinstance(value, bool):
        raise invalid(argument, "True or False", value)
    return value


def _real(argument: str, value: Any, expected: str, accepts: Any) -> float:
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not accepts(value):
        raise invalid(argument, expected, value)
    return float(value)


def check_features(
    x: Shape,
    y: Shape | None,
    bank: Shape | None,
    dtypes: Sequence[str],
    devices: Sequence[str] = (),
    least: int = 2,
    framework: str = "numpy",
    has_ids: bool | None = None,
) -> None:
    """Check the shapes, dtypes and devices of the features a loss is given.

    Unknown sizes (None, as while a graph is traced) are taken to fit.

    Args:
        x: shape of the first view, (N, D).
        y: shape of the second view, (N, D); None, where it was left out, is refused without ids.
        bank: shape of the negatives' bank, (K, D), or None.
        dtypes: dtype names of those that were given, in this order.
        devices: device names in the same order; empty when the framework moves data by itself.
        least: rows that x needs without a bank; 1 for a shard of a distributed batch, or 0 where
            a shard may be empty.
        framework: name in `SPLITS` of what holds the arrays.
        has_ids: whether ids say which rows of x belong together; None for a loss that takes none.

    Raises:
        ValueError: naming the argument at fault, the expectation and what was received.
    """
    if y is None and not has_ids:
        raise _no_second_view(x, framework, None, "y", has_ids)
    if y is not None and len(x) > 1 and dtypes[0] in FLOAT_DTYPES:  # else x is the mistake
        if len(y) == 1:
            raise _no_second_view(x, framework, tuple(y), "y.shape", has_ids)
        if dtypes[1].startswith(("int", "uint")):
            raise _no_second_view(x, framework, dtypes[1], "y.dtype", has_ids)
    given = (("x", x), ("y", y), ("bank", bank))
    shapes = {name: tuple(shape) for name, shape in given if shape is not None}
    for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True):
        _check_array(name, shape, dtype)
    if not _equal(shapes["x"], shapes.get("y", shapes["x"])):
        raise invalid("y", f"{SHAPE_OF_X}, {shapes['x']}", shapes["y"], what="y.shape")
    for name, device in list(zip(shapes, devices, strict=False))[1:]:
        if device != devices[0]:
            raise invalid(name, f"the device of `x`, {devices[0]}", device, what=f"{name}.device")
    _check_negatives_exist(shapes, least)


def _no_second_view(
    x: Shape, framework: str, received: Any, what: str, has_ids: bool | None
) -> InvalidArgument:
    """The error where both views came in one array, alone or with labels, as other losses want."""
    split = SPLITS[framework] if len(x) == 2 else "features[:, 0], features[:, 1]"
    why = (
        "This loss takes no labels, and no views in one array: split such an array,"
        if has_ids is None
        else "Labels, or the numbers of the samples whose views are in one array, are given by"
        " name, `loss(features, ids=labels)`. Two views in one array can also be split,"
    )
    return invalid(
        "y", "the second view of the samples in `x`, (N, D)", received, what=what,
        why=f"{why} `z1, z2 = {split}`, and passed as (z1, z2).",
    )  # fmt: skip


def check_ids(argument: str, ids: Shape, dtype: str, rows: int | None) -> None:
    """Check that ids are whole numbers, one a row.

    Args:
        argument: name of the argument, "ids" of x and y, or "bank_ids".
        ids: shape of the ids.
        dtype: name of their dtype.
        rows: number of rows that they belong to; None while it is unknown.

    Raises:
        ValueError: the dtype is no integer, or the shape is another.
    """
    if not dtype.startswith(("int", "uint")):
        raise invalid(argument, WHOLE_NUMBERS, dtype, what=f"{argument}.dtype")
    if len(ids) != 1 or not _equal(ids, (rows,)):
        rest = "" if rows is None else f" = ({rows},)"
        raise invalid(argument, id_a_row(argument) + rest, tuple(ids), what=f"{argument}.shape")


def id_a_row(argument: str) -> str:
    """What is expected of the shape of "ids" or "bank_ids", as graphs check it when they run."""
    whose, letter = ("bank", "K") if argument == "bank_ids" else ("x", "N")
    return f"one whole number for each row of `{whose}`, ({letter},)"


def _check_array(name: str, shape: tuple[int | None, ...], dtype: str) -> None:
    rows = "K" if name == "bank" else "N"
    if len(shape) != 2:
        raise invalid(name, f"a 2-D array ({rows}, D)", shape, what=f"{name}.shape")
    if shape[1] == 0:
        raise invalid(name, SOME_FEATURE, shape, what=f"{name}.shape")
    if dtype not in FLOAT_DTYPES:
        raise invalid(name, f"a dtype among {', '.join(FLOAT_DTYPES)}", dtype, what=f"{name}.dtype")


#: What of an f-MICL loss can change after all.
BUT_SCALARS = (
    "; all that can change is `alpha`, `logit_scale` and `logit_bias`, which may be arrays of no"
    " dimension"
)


def fixed_option(name: str, value: Any, but: str = BUT_SCALARS) -> InvalidArgument:
    """Build the error for an option that is assigned to a loss after it was made."""
    expected = "to be given when the loss is made"
    return invalid(name, expected, value, why=f"Make a new loss{but}.")


def _check_negatives_exist(shapes: dict[str, tuple[int | None, ...]], least: int) -> None:
    x, bank = shapes["x"], shapes.get("bank")
    if bank is None:
        if x[0] is not None and x[0] < least:
            why = None if least == 1 else "A single sample has no negative."
            raise invalid("x", ROWS_OF_X[least], x, what="x.shape", why=why)
        return
    if not _equal(x[1:], bank[1:]):
        raise invalid("bank", f"{WIDTH_OF_X}, D = {x[1]}", bank, what="bank.shape")
    if bank[0] == 0:
        raise invalid("bank", SOME_ROW.format(rows="K"), bank, what="bank.shape")
    if least and x[0] == 0:
        raise invalid("x", SOME_ROW.format(rows="N"), x, what="x.shape")


def wide_dtype(dtypes: Iterable[str]) -> str:
    """The dtype that a loss of features with these dtypes is computed in: float32 at least."""
    return "float64" if "float64" in dtypes else "float32"


def no_negatives(rows: int, has_bank: bool) -> InvalidArgument:
    """Build the error for `rows` rows of x, or of the bank, of which none is a negative."""
    equal = "Rows with equal ids are no negatives of each other."
    if has_bank:
        expected = "a row of the bank whose id differs from one in `ids`"
        return invalid("bank_ids", expected, f"{rows} rows with the id of every anchor", why=equal)
    return invalid("ids", "at least two different ids", f"{rows} rows with one id", why=equal)


def no_positives(rows: int) -> InvalidArgument:
    """Build the error for a single array of so many rows of which no two have equal ids."""
    return invalid(
        "ids", "at least two rows with equal ids", f"{rows} rows with an id of their own",
        why="The positive pairs of a single array are those of rows with equal ids.",
    )  # fmt: skip


def _equal(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    return all(m is None or n is None or m == n for m, n in zip(a, b, strict=True))


def non_finite(argument: str, rows: Sequence[int]) -> InvalidArgument:
    """Build the error for features that hold NaN or infinity in `rows`."""
    shown = ", ".join(str(int(r)) for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
    return InvalidArgument(
        f"{expectation(argument, 'finite features')} Received: NaN or infinity in row {shown}"
    )


def overflowed(objective: Any, loss: float, alpha: float = 1.0) -> InvalidArgument:
    """Build the error for finite features whose loss is not finite.

    Args:
        objective: settings of the loss.
        loss: the loss.
        alpha: weight of the penalty; with "auto" that of this batch.
    """
    why = "With normalize=False, or an extreme sigma2, scores can leave the range of the dtype."
    if not math.isfinite(alpha):
        too_small = "is 0 here: take a wider kernel."
        too_large = "leaves the range of the dtype: take a smaller `logit_scale` or `logit_bias`."
        found = too_large if math.isnan(alpha) else too_small
        why = f"alpha='auto' divides by the mean of u over the negative pairs, which {found}"
    expected = f"features with a finite loss under {objective!r}"
    return invalid("x", expected, loss, what="loss", why=why)


def once_differentiable() -> RuntimeError:
    """Build the error for a second derivative of the tiled form."""
    return RuntimeError(
        "The tiled form of a loss can be differentiated once. For second derivatives"
        " (create_graph=True, jax.hessian, nested tapes) use implementation='dense'."
    )


def callers_level() -> int:
    """`stacklevel` at which a warning of the caller shows the first line outside of fmicl."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fmicl_", "functools")):
        frame, level = frame.f_back, level + 1
    return level
