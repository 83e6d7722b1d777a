"""What every loss does with its features first: check, raise the precision, normalise."""

from __future__ import annotations

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from fmicl_core.checks import (
    InvalidArgument,
    check_bool,
    check_features,
    check_scalar,
    check_scalar_value,
    invalid,
    non_finite,
    wide_dtype,
)
from fmicl_jax.ops import normalize_rows
from fmicl_jax.plan import Rows, Scalar


def prepare(
    x: jax.Array,
    y: jax.Array | None,
    bank: jax.Array | None,
    normalize: bool,
    *,
    least: int = 2,
    has_ids: bool | None = None,
    logit_scale: Scalar | None = None,
    temperature: Scalar | None = None,
) -> Rows:
    """Checked features by name, in one dtype of float32 at least, of unit length where asked for.

    Where there is a scale or a temperature they are multiplied by a number, so that the product of
    two rows is that of the features times the scale, or divided by the temperature.

    Args:
        x: features of the first view.
        y: features of the second view; None, where the caller left it out, is refused without ids.
        bank: features of the bank of negatives, or None.
        normalize: whether rows are scaled to unit length.
        least: rows that x needs without a bank; 1 for a shard of a distributed batch.
        has_ids: whether ids say which rows of x belong together; None for a loss that takes none.
        logit_scale: factor of the products of rows, or None.
        temperature: divisor of the products of rows, or None.

    Raises:
        ValueError: a feature array is no array, or shapes or dtypes do not fit.
    """
    check_bool("normalize", normalize)
    given = {"x": x} | {k: v for k, v in (("y", y), ("bank", bank)) if v is not None}
    for name, value in given.items():
        if not is_array(value):
            raise invalid(name, "a jax.Array", type(value).__name__, what=f"type({name})")
        if not all(isinstance(size, int) for size in value.shape):  # as in jax.export
            raise invalid(
                name, "sizes that are known while tracing", value.shape, what=f"{name}.shape"
            )
    arrays = {name: jnp.asarray(value) for name, value in given.items()}
    dtypes = [value.dtype.name for value in arrays.values()]
    check_features(
        x.shape,
        None if y is None else y.shape,
        None if bank is None else bank.shape,
        dtypes,
        least=least,
        framework="jax",
        has_ids=has_ids,
    )
    dtype = wide_dtype(dtypes)
    wide = {name: value.astype(dtype) for name, value in arrays.items()}
    factor = None
    if logit_scale is not None:
        factor = jnp.sqrt(jnp.asarray(logit_scale, dtype))
    elif temperature is not None:
        factor = 1.0 / jnp.sqrt(jnp.asarray(temperature, dtype))
    if normalize:
        return {k: normalize_rows(v, factor) for k, v in wide.items()}
    return wide if factor is None else {k: factor * v for k, v in wide.items()}


def largest_block(rows: Rows, has_ids: bool, devices: int = 1) -> tuple[int, int]:
    """Rows and columns of the largest block of pairs; ids make blocks of positives, too."""
    n = devices * len(rows["x"])
    k = len(rows["bank"]) if "bank" in rows else n
    return n, max(n, k) if has_ids else k


def is_array(value: Any) -> TypeGuard[jax.Array]:
    """Whether it is an array of JAX or of NumPy, which JAX takes, too."""
    return isinstance(value, jax.Array | np.ndarray)


def checked_scalar(name: str, value: Scalar) -> Scalar:
    """The scalar of a loss, checked: a float, or an array, whose value is not read.

    Raises:
        ValueError: it is no finite number, of the sign it must have, and no array of no dimension.
    """
    checked: Scalar = check_scalar(name, value, value.shape if is_array(value) else None)
    return checked


def check_known_scalar(name: str, value: Scalar | str | None) -> None:
    """Check the value of a scalar that is an array, but not while tracing.

    Raises:
        ValueError: it is not finite, or not of the sign it must have.
    """
    if is_array(value) and not isinstance(value, jax.core.Tracer):
        check_scalar_value(name, float(value))


def explain_non_finite(
    x: jax.Array, y: jax.Array | None, bank: jax.Array | None
) -> InvalidArgument | None:
    """The error that names the argument and the rows with NaN or infinity, if there are any."""
    for name, value in (("x", x), ("y", y), ("bank", bank)):
        if value is not None and not jnp.isfinite(value).all():
            rows = np.flatnonzero(np.asarray(~jnp.isfinite(value).all(axis=1)))
            return non_finite(name, rows.tolist())
    return None
