"""Predictions of several views, y_pred (batch, V, dim): checked, and as the libraries take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras.src.backend import get_keras_mask  # there is no public way to read a mask

from fmicl_core.checks import invalid
from fmicl_core.pairs import SINGLE
from fmicl_keras.backend import Tensor
from fmicl_keras.replicas import numbers
from fmicl_keras.targets import ids_of


def read(
    y_true: Any, y_pred: Any, dtype: str, ids_from_targets: bool
) -> tuple[Tensor, Tensor | None]:
    """The views (batch, V, dim) in the dtype of the loss, and the ids (batch,) of their samples.

    Args:
        y_true: targets; read if `ids_from_targets`, else of any type and structure.
        y_pred: views (batch, V, dim); with ids also features (batch, dim), a view of each sample.
        dtype: name of the dtype.
        ids_from_targets: whether y_true holds ids; otherwise these are None.

    Raises:
        ValueError: y_pred or the ids have another shape or dtype, or y_pred has a mask.
    """
    views = keras.ops.convert_to_tensor(unmasked(y_pred), dtype=dtype)
    if not ids_from_targets:
        check_views(views.shape)
        return views, None
    if len(views.shape) == 2:
        views = views[:, None, :]
    check_views(views.shape, least=1)
    return views, ids_of(y_true, views.shape[0])


def check_views(shape: Sequence[int | None], least: int = 2) -> None:
    """Check the shape of predictions that hold all views of every sample, (batch, V, dim).

    Args:
        shape: shape of the predictions.
        least: views that a sample needs; one is enough where ids say which samples belong together.

    Raises:
        ValueError: they have another shape.
    """
    shape = tuple(shape)
    if len(shape) != 3 or (shape[1] is not None and shape[1] < least):
        why = "Views z1 and z2 become one by keras.ops.stack([z1, z2], axis=1)."
        expected = f"the views of every sample, (batch, V, dim) with V >= {least}"
        raise invalid("y_pred", expected, shape, what="y_pred.shape", why=why)
    if shape[2] == 0:
        raise invalid("y_pred", "at least one feature, dim >= 1", shape, what="y_pred.shape")


def check_pairs(views: int | None, negatives: str, positives: str) -> None:
    """Check that options need no second array where there are not exactly two views of a sample.

    Raises:
        ValueError: they do.
    """
    if views in (2, None):
        return
    why = f"Samples with {views} views are a single array of all views."
    if negatives not in SINGLE:
        expected = "'anchor' or 'all' unless there are two views of a sample"
        raise invalid("negatives", expected, negatives, why=why)
    if positives == "pair":
        expected = "'ids' unless there are two views of a sample"
        raise invalid("positives", expected, positives, why=why)


def arrays(views: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What the libraries' losses take: x, y and ids.

    Two views are two arrays. Any other number is a single array, (N V, D), with one id per row:
    that of its sample, or else the number of its sample among those of all replicas.
    """
    count, dim = views.shape[1:]
    if count in (2, None):
        return views[:, 0], views[:, 1], ids
    if ids is None:
        ids = numbers(views)
    return keras.ops.reshape(views, (-1, dim)), None, keras.ops.repeat(ids, count)


def unmasked(features: Tensor, argument: str = "y_pred", axes: int = 2) -> Tensor:
    """Return features when Keras masks none of their samples or views.

    A mask of more axes concerns the inside of a view, such as tokens that were averaged, and is
    ignored.

    Args:
        features: features of all views, or of one.
        argument: name of the argument that holds them.
        axes: axes of samples and views that the features have.

    Raises:
        ValueError: there is a mask.
    """
    mask = get_keras_mask(features)
    if mask is not None and len(mask.shape) <= axes:
        raise invalid(
            argument, "features without a Keras mask of samples or views", tuple(mask.shape),
            what="mask.shape",
            why="What is masked would still be a negative of the others: leave it out of the batch,"
            " or have the last layer's compute_mask return None.",
        )  # fmt: skip
    return features
