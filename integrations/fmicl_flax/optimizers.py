"""Optimisers, SGD, AdamW and LARS, and the learning rate with warm-up and cosine."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import optax


@lru_cache(maxsize=16)
def build_optimizer(
    name: str, lr: float, momentum: float, weight_decay: float, steps: int, warmup: int
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
    """
    rate = warmup_cosine(lr, steps, warmup)
    if name == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay, mask=is_weight)
    parts = [optax.add_decayed_weights(weight_decay, is_weight)]
    if name == "lars":
        ratio = optax.scale_by_trust_ratio(trust_coefficient=1e-3)
        parts.append(optax.masked(ratio, is_weight))
    return optax.chain(*parts, optax.trace(momentum), optax.scale_by_learning_rate(rate))


def warmup_cosine(lr: float, steps: int, warmup: int) -> optax.Schedule:
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0."""
    if not warmup:
        return optax.cosine_decay_schedule(lr, steps)
    return optax.warmup_cosine_decay_schedule(lr / warmup, lr, warmup, steps)


def is_weight(params: Any) -> Any:
    """A tree like that of the parameters, True at weights that are neither of a norm nor a bias."""

    def decide(path: Any, leaf: Any) -> bool:
        named_bias = any(getattr(part, "key", None) == "bias" for part in path)
        return leaf.ndim > 1 and not named_bias

    return jax.tree.map_with_path(decide, params)
