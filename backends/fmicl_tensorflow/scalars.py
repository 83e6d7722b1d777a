"""What of a loss may be a tensor that learns: alpha, logit_scale, logit_bias, temperature."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import tensorflow as tf

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.checks import check_scalar, check_scalar_value
from fmicl_core.objective import number_for
from fmicl_core.related import RELATED_DEFAULTS, one_scale

#: A number, or a tensor or a variable of no dimension.
Scalar: TypeAlias = "float | tf.Tensor"
#: Which of "temperature" and "logit_scale" says the factor of the scores, and its value.
Scale: TypeAlias = tuple[str, Scalar]


def checked_scalar(name: str, value: Scalar) -> Scalar:
    """A scalar of a loss, checked; the value of a tensor is left to `check_values_of`.

    Raises:
        ValueError: it is no number in its range and no tensor of no dimension.
    """
    return check_scalar(name, value, value.shape if _is_array(value) else None)


def scale_of(
    temperature: Scalar,
    logit_scale: Scalar | None,
    default: float = RELATED_DEFAULTS.temperature,
) -> Scale:
    """The factor of the scores of InfoNCE, checked.

    Args:
        temperature, logit_scale: as for `info_nce_loss`.
        default: value of `temperature` where it is left out.

    Raises:
        ValueError: both were given, or one is no number > 0 and no tensor of no dimension.
    """
    name, value = one_scale(temperature, logit_scale, default)
    return name, checked_scalar(name, value)


def check_values_of(**scalars: Scalar | str | None) -> None:
    """Check what the tensors among these scalars hold; only outside of a graph.

    Raises:
        ValueError: a value is not in the range of its argument.
    """
    for name, value in scalars.items():
        if _is_array(value):
            check_scalar_value(name, _number(value))


def as_tensor(value: Scalar, dtype: tf.DType) -> tf.Tensor:
    """The scalar in this dtype, with gradient."""
    # A number would go through float32 in tf.cast.
    return tf.cast(value, dtype) if _is_array(value) else tf.constant(value, dtype)


def root_of(scale: Scale, dtype: tf.DType) -> tf.Tensor:
    """Square root of the factor of the scores, which rows on both sides of a pair carry."""
    name, value = scale[0], as_tensor(scale[1], dtype)
    return tf.sqrt(value if name == "logit_scale" else 1.0 / value)


def _number(value: Scalar) -> float:
    """The number that a scalar is now, also of a variable that a strategy mirrors."""
    return float(tf.convert_to_tensor(value) if _is_array(value) else value)


def _is_array(value: object) -> TypeGuard[tf.Tensor]:
    return isinstance(value, tf.Tensor | tf.Variable | np.ndarray)


class Scalars(NamedTuple):
    """The scalars of an f-MICL loss, as they were given; an alpha found from batches is "auto"."""

    alpha: Scalar | str
    logit_scale: Scalar | None
    logit_bias: Scalar | None

    @classmethod
    def checked(cls, alpha: Scalar | str, **given: Scalar | None) -> Scalars:
        """These arguments; `settings` checks an alpha that is a text.

        Raises:
            ValueError: one is no number in its range and no tensor of no dimension.
        """
        alpha = alpha if isinstance(alpha, str) else checked_scalar("alpha", alpha)
        more = {k: None if v is None else checked_scalar(k, v) for k, v in given.items()}
        return cls(alpha, **more)

    def settings(
        self,
        divergence: Divergence | str,
        similarity: Similarity | str,
        negatives: str,
        normalize: bool,
        positives: str,
        strength: float | None = None,
    ) -> FMICL:
        """The settings of the loss, which hold a number in place of each tensor.

        Raises:
            ValueError: an option is unknown, or options do not go together.
        """
        numbers = {k: number_for(k, v, _is_array(v)) for k, v in self._asdict().items()}
        fixed = numbers.pop("alpha"), negatives, normalize, positives
        return FMICL(divergence, similarity, *fixed, **numbers, strength=strength)

    def logits(self, settings: FMICL) -> tuple[Scale | None, Scalar | None]:
        """The factor and the constant of z that are in the place of the similarity's own."""
        if settings.logits is None:
            return None, None
        scale, bias = settings.critic.logits(self.logit_scale, self.logit_bias)
        return ("logit_scale", scale), bias

    def values(self) -> dict[str, Any]:
        """The numbers that they are now."""
        given = self._asdict().items()
        return {k: v if isinstance(v, str | None) else _number(v) for k, v in given}
