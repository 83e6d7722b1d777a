"""The functions of one array that divergences and kernels are written in, and their NumPy instance.

Each backend supplies the same functions for its own arrays. Anything else a formula needs is
arithmetic (`+ - * /` and `**` with a constant), which all arrays understand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: An array of any framework: NumPy, torch, JAX or TensorFlow.
Array = Any
Unary = Callable[[Array], Array]

#: What `Ops.sum_log1p` must accept: products of 16 such numbers stay in the range of float32.
SUM_LOG_BOUND = 200.0
#: Below this z the sum of log(1 + e^z) may be taken in that way.
LOGIT_BOUND = math.log(SUM_LOG_BOUND / 2)


@dataclass(frozen=True)
class Ops:
    """Elementwise functions of one framework.

    Args:
        name: name of the framework.
        exp: e^x.
        expm1: e^x - 1, accurate near 0.
        log: natural logarithm.
        log1p: log(1 + x), accurate near 0.
        softplus: log(1 + e^x), accurate and finite at any finite x.
        sigmoid: 1 / (1 + e^-x), accurate and finite at any finite x.
        relu: max(x, 0), which lets NaN through.
        sum: sum over all entries.
        sum_log1p: sum over all entries of log(1 + x), accurate near 0, for 0 <= x and 1 + x <=
            `SUM_LOG_BOUND`. A framework whose logarithm is slow may take it of products.

    Examples:
        >>> import numpy as np
        >>> from fmicl_core import NUMPY
        >>> def penalty(L, ops):  # of Jensen-Shannon, for arrays of any framework
        ...     return ops.softplus(L) - np.log(2.0)
        >>> round(float(penalty(np.array(0.0), NUMPY)), 4)
        0.0
        >>> round(float(penalty(np.array(50.0), NUMPY)), 4)
        49.3069
    """

    name: str
    exp: Unary
    expm1: Unary
    log: Unary
    log1p: Unary
    softplus: Unary
    sigmoid: Unary
    relu: Unary
    sum: Unary
    sum_log1p: Unary

    def sum_softplus_and_sigmoid(self, x: Array) -> tuple[Array, Array]:
        """(sum of softplus(x), sigmoid(x)) for x < LOGIT_BOUND; x may be overwritten."""
        slope = self.exp(x)
        total = self.sum_log1p(slope)
        slope /= 1.0 + slope
        return total, slope


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0.0)


def _sigmoid(x: Array) -> Array:
    # The exponent is never positive, so nothing overflows, and small values keep their digits.
    return np.exp(-np.logaddexp(-np.asarray(x), 0.0))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _sum_log1p(x: Array) -> Array:
    return np.log1p(x).sum()


#: The functions of NumPy.
NUMPY = Ops(
    name="numpy",
    exp=np.exp,
    expm1=np.expm1,
    log=np.log,
    log1p=np.log1p,
    softplus=_softplus,
    sigmoid=_sigmoid,
    relu=_relu,
    sum=np.sum,
    sum_log1p=_sum_log1p,
)
