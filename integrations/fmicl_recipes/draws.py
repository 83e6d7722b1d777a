"""The random numbers that frameworks share, each drawn from the seed and where it is used alone.

A run that stopped therefore goes on exactly as if it had not, and in MoCo three frameworks start
from the same queue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Streams of random numbers beside the order of the images.
_QUEUE, _KEYS, _CROPS = 1, 2, 3


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of an epoch's batches, (steps, batch_size), in an order drawn from (seed, epoch).

    A last partial batch is left out.
    """
    steps = count // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[: steps * batch_size].reshape(steps, batch_size)


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's random numbers, where a framework takes one whole number."""
    return seed * 1_000_003 + step


def initial_queue(size: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Random unit vectors (size, dim) that fill MoCo's queue before the first step."""
    rows = np.random.default_rng((seed, _QUEUE)).standard_normal((size, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def key_order(count: int, seed: int, step: int) -> NDArray[np.int64]:
    """Order (N,) in which MoCo encodes a step's keys, so that batch statistics tell it nothing."""
    return np.random.default_rng((seed, step, _KEYS)).permutation(count)


def crop_draws(count: int, views: int, seed: int, step: int) -> NDArray[np.float64]:
    """Numbers (N, V, 4) in [0, 1) that decide over the random crops of a step's images."""
    return np.random.default_rng((seed, step, _CROPS)).random((count, views, 4))
