"""Optimisers, SGD, AdamW and LARS, and the learning rate with warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


@lru_cache(maxsize=16)
def build_optimizer(
    name: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    steps: int,
    warmup: int,
    dtype: Any = jnp.float32,
) -> optax.GradientTransformation:
    """The optimiser with its schedule; norms and biases have no decay, and in LARS no trust ratio.

    Equal arguments give the same object, so that equal runs share one compiled step.

    Args:
        name: "sgd", "adamw" or "lars" (You et al. 2017, in the form of MoCo v3: decay, then the
            trust ratio, then momentum, then the rate).
        lr: peak of the learning rate.
        momentum: momentum of SGD and LARS.
        weight_decay: weight decay of what is neither a norm nor a bias.
        steps: number of steps of the whole run.
        warmup: number of steps, at the beginning, in which the rate rises.
        dtype: dtype of the weights.
    """
    rate = warmup_cosine(lr, steps, warmup, dtype)
    if name == "adamw":
        # Optax takes powers of Python numbers in float32.
        b1, b2 = (np.asarray(decay, dtype) for decay in (0.9, 0.999))
        return optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=is_weight)
    parts = [optax.add_decayed_weights(weight_decay, is_weight)]
    if name == "lars":
        ratio = optax.scale_by_trust_ratio(trust_coefficient=1e-3)
        parts.append(optax.masked(ratio, is_weight))
    return optax.chain(*parts, optax.trace(momentum), optax.scale_by_learning_rate(rate))


def warmup_cosine(
    lr: float, steps: int, warmup: int, dtype: Any = jnp.float32
) -> Callable[[Any], jax.Array]:
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0.

    Optax has it too, in float32 alone.
    """
    start = lr / max(1, warmup)

    def rate(count: Any) -> jax.Array:
        step = jnp.asarray(count, dtype)
        rising = start + (lr - start) * step / max(1, warmup)
        done = jnp.clip((step - warmup) / (steps - warmup), 0.0, 1.0)
        return jnp.where(step < warmup, rising, 0.5 * lr * (1.0 + jnp.cos(math.pi * done)))

    return rate


def is_weight(params: Any) -> Any:
    """A tree like that of the parameters, True at weights that are neither of a norm nor a bias."""

    def decide(path: Any, leaf: Any) -> bool:
        named_bias = any(getattr(part, "key", None) == "bias" for part in path)
        return leaf.ndim > 1 and not named_bias

    return jax.tree.map_with_path(decide, params)
