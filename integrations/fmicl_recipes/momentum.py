"""What MoCo and MoCo v3 draw and schedule, in NumPy, so that it is the same in every framework."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Streams of random numbers of their own, beside the order of the images.
_QUEUE, _KEYS = 1, 2


def initial_queue(size: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Random unit vectors (size, dim) that fill MoCo's queue before the first step."""
    rows = np.random.default_rng((seed, _QUEUE)).standard_normal((size, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def key_order(count: int, seed: int, step: int) -> NDArray[np.int64]:
    """Order (N,) in which MoCo encodes a step's keys, so that batch statistics tell it nothing."""
    return np.random.default_rng((seed, step, _KEYS)).permutation(count)


def ema_schedule(start: float, step: int, steps: int) -> float:
    """Momentum of MoCo v3's key encoder: 1 - (1 - start) (1 + cos(pi step / steps)) / 2.

    Args:
        start: momentum of the first step.
        step: from 0.
        steps: of the whole run.

    Source: Chen et al. (2021), section 4.3 and its code.
    """
    return 1.0 - (1.0 - start) * (1.0 + math.cos(math.pi * step / steps)) / 2.0
