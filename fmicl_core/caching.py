"""What `loss_and_gradients` and `cached_loss` check and refuse, alike in every framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fmicl_core.checks import FLOAT_DTYPES, InvalidArgument, invalid


def check_float(argument: str, dtype: str) -> None:
    """Check the dtype of features, whose gradient is wanted."""
    if dtype not in FLOAT_DTYPES:
        expected = f"a dtype among {', '.join(FLOAT_DTYPES)}"
        raise invalid(argument, expected, dtype, what=f"{argument}.dtype")


def no_scalar(received: Any) -> InvalidArgument:
    """Build the error for a loss that returns something else; `received` is its shape or type."""
    return invalid("loss", "a function or object that returns a scalar", received,
                   what="what it returned")  # fmt: skip


def no_gradient() -> InvalidArgument:
    """Build the error for a loss whose value does not depend on the features."""
    return invalid("loss", "a function with a gradient in the features", "a constant",
                   what="what it returned")  # fmt: skip


def each_encoder(encode: Any, views: int) -> tuple[Any, ...]:
    """The encoder of every view; `encode` is one for all, or a tuple or list of them.

    Raises:
        ValueError: there are no views, or not as many encoders.
    """
    if views == 0:
        raise invalid("inputs", "the inputs of one view or more", views, what="len(inputs)")
    if not isinstance(encode, tuple | list):
        return (encode,) * views
    if len(encode) != views:
        expected = f"one encoder, or one for each of {views} inputs"
        raise invalid("encode", expected, len(encode), what="len(encode)")
    return tuple(encode)


def samples_of(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of samples of a view, of the shapes of its arrays.

    Raises:
        ValueError: there is no array, none with samples, or they do not have equally many.
    """
    firsts = {shape[:1] for shape in shapes}
    if len(firsts) != 1 or sum(*firsts) == 0:
        expected = "arrays of one view with equally many samples along their first axes"
        raise invalid("inputs", expected, list(shapes), what="shapes of a view")
    return sum(*firsts)


def check_encoded(shape: tuple[int, ...] | None, kind: str, samples: int) -> None:
    """Check what an encoder returned for so many samples.

    Args:
        shape: shape of it; None where it is no array.
        kind: name of its type.
        samples: number of samples.
    """
    if shape is None or len(shape) != 2 or shape[0] != samples:
        expected = f"a function that returns features of {samples} samples, ({samples}, D)"
        received = kind if shape is None else shape
        raise invalid("encode", expected, received, what="what it returned")


def batch_norms(argument: str, names: Sequence[str]) -> InvalidArgument:
    """Build the error for an encoder with batch norm.

    Args:
        argument: name of the argument that holds it.
        names: names of the batch norms or of their statistics, with their types.
    """
    more = [] if len(names) <= 3 else [f"and {len(names) - 3} more"]
    return invalid(
        argument, "no batch norm that takes its statistics from the batch",
        ", ".join([*names[:3], *more]), what="batch norm",
        why="They would be those of a mini-batch. Take group norm or layer norm, or freeze it: in"
        " eval mode its running statistics count.",
    )  # fmt: skip
