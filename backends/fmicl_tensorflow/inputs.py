"""What every loss does with its features first: check, raise the precision, normalise."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fmicl_core import checks
from fmicl_core.checks import (
    InvalidArgument,
    check_bool,
    check_features,
    invalid,
    non_finite,
    wide_dtype,
)
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.ops import normalize_rows
from fmicl_tensorflow.scalars import Scale, root_of


def prepare(
    x: tf.Tensor,
    y: tf.Tensor | None,
    bank: tf.Tensor | None,
    normalize: bool,
    scale: Scale | None = None,
    *,
    least: int = 2,
    has_ids: bool | None = None,
) -> Rows:
    """Checked features by name, in one dtype of float32 at least, of unit length where asked for.

    With a scale they then carry its square root.

    Sizes unknown while a graph is traced are checked when it runs, unless XLA compiles it.

    Args:
        x: features of the first view.
        y: features of the second view; None, where the caller left it out, is refused without ids.
        bank: features of the bank of negatives, or None.
        normalize: whether rows are scaled to unit length.
        scale: factor of the scores that is given beside the features, checked; None: there is none.
        least: rows that x needs without a bank; 0 for a replica's part of a batch, which may be
            empty where the last batch is small.
        has_ids: whether ids say which rows of x belong together; None for a loss that takes none.

    Raises:
        ValueError: a feature array is no tensor, or shapes or dtypes do not fit.
    """
    check_bool("normalize", normalize)
    given = {"x": x} | {k: v for k, v in (("y", y), ("bank", bank)) if v is not None}
    for name, value in given.items():
        if not isinstance(value, tf.Tensor | tf.Variable | np.ndarray):
            raise invalid(name, "a tf.Tensor", type(value).__name__, what=f"type({name})")
    tensors = {name: tf.convert_to_tensor(value) for name, value in given.items()}
    tensors = {
        k: tf.ensure_shape(v, [None, None]) if v.shape.rank is None else v
        for k, v in tensors.items()
    }
    dtypes = [value.dtype.name for value in tensors.values()]
    check_features(
        tensors["x"].shape,
        None if y is None else tensors["y"].shape,
        None if bank is None else tensors["bank"].shape,
        dtypes,
        least=least,
        framework="tensorflow",
        has_ids=has_ids,
    )
    if not all(tensor.shape.is_fully_defined() for tensor in tensors.values()):
        tensors = _checked_when_run(tensors, least)
    dtype = tf.as_dtype(wide_dtype(dtypes))
    wide = {name: tf.cast(value, dtype) for name, value in tensors.items()}
    root = None if scale is None else root_of(scale, dtype)
    if normalize:
        return {k: normalize_rows(v, root) for k, v in wide.items()}
    return wide if root is None else {k: root * v for k, v in wide.items()}


def _checked_when_run(tensors: Rows, least: int) -> Rows:
    """The tensors, tied to assertions about the sizes that are not known yet."""
    x, y, bank = tensors["x"], tensors.get("y"), tensors.get("bank")
    rows, width = tf.shape(x)[0], tf.shape(x)[1]
    rules = [(width >= 1, "x", checks.SOME_FEATURE)]
    if y is not None:
        rules.append((tf.reduce_all(tf.shape(y) == tf.shape(x)), "y", checks.SHAPE_OF_X))
    if bank is not None:
        rules += [
            (tf.shape(bank)[1] == width, "bank", checks.WIDTH_OF_X),
            (tf.shape(bank)[0] >= 1, "bank", checks.SOME_ROW.format(rows="K")),
        ]
    if least:
        some = checks.ROWS_OF_X[least] if bank is None else checks.SOME_ROW.format(rows="N")
        rules.append((rows >= (least if bank is None else 1), "x", some))
    asserted = [assert_when_run(holds, name, rule, tensors[name]) for holds, name, rule in rules]
    with tf.control_dependencies(asserted):
        return {name: tf.identity(value) for name, value in tensors.items()}


def assert_when_run(
    holds: tf.Tensor, name: str, expected: str, value: tf.Tensor
) -> tf.Operation | None:
    """Check, when the graph runs, that the shape of an argument is what is expected."""
    message = f"{checks.expectation(name, expected)} Received: {name}.shape="
    return tf.debugging.Assert(holds, [message, tf.shape(value)])


def explain_non_finite(
    x: tf.Tensor, y: tf.Tensor | None, bank: tf.Tensor | None
) -> InvalidArgument | None:
    """The error that names the argument and the rows with NaN or infinity, if there are any."""
    for name, value in (("x", x), ("y", y), ("bank", bank)):
        if value is not None:
            rows = np.flatnonzero(~tf.reduce_all(tf.math.is_finite(value), axis=1).numpy())
            if len(rows):
                return non_finite(name, rows.tolist())
    return None
