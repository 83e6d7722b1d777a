"""Optimisers, SGD, AdamW and LARS, and the learning rate with warm-up and cosine."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class SGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay in the gradient.

    g <- g + decay w;  v <- momentum v - lr g;  w <- w + v

    Keras' own weight decay stands beside the momentum, not in it, and at equal settings is weaker
    by 1 - momentum. Weights of at most one dimension, norms and biases, have no decay.

    Args:
        learning_rate: number, or schedule.
        momentum: momentum in [0, 1).
        decay: weight decay, >= 0.
        options: options of `keras.optimizers.SGD`.
    """

    def __init__(
        self, learning_rate: Any, momentum: float = 0.9, decay: float = 0.0, **options: Any
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, **options)
        self.decay = decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one weight."""
        if len(variable.shape) > 1:
            gradient = self.direction(gradient, ops.convert_to_tensor(variable))
        if not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        # Keras' own step rounds the momentum to float32 on TensorFlow.
        velocity = self.momentums[self._get_variable_index(variable)]
        moved = ops.cast(learning_rate, variable.dtype) * gradient
        self.assign(velocity, self.momentum * velocity - moved)
        self.assign_add(variable, velocity)

    def direction(self, gradient: Any, weight: Any) -> Any:
        """The direction that takes the gradient's place for weights, not for norms and biases."""
        return gradient + self.decay * weight

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        config = super().get_config() | {"decay": self.decay}
        del config["nesterov"], config["weight_decay"]
        return config


class LARS(SGD):
    """SGD with momentum whose steps are scaled, weight by weight, to the weight's own size.

    g <- g + decay w;  g <- g * trust |w| / |g|;  v <- momentum v - lr g;  w <- w + v

    The first two leave out norms and biases, weights of at most one dimension.

    Args:
        learning_rate, momentum, decay, options: arguments of `SGD`.
        trust: size of a step, as a share of the weight's norm, at a learning rate of 1.

    Source: You et al. (2017), in the form of MoCo v3 (Chen et al. 2021).
    """

    def __init__(
        self,
        learning_rate: Any,
        momentum: float = 0.9,
        decay: float = 0.0,
        trust: float = 1e-3,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum, decay, **options)
        self.trust = trust

    def direction(self, gradient: Any, weight: Any) -> Any:
        """The decayed gradient at the size of the weight."""
        change = super().direction(gradient, weight)
        # Flat, since the norm of more than two dimensions is none of Keras'.
        size, length = (ops.norm(ops.reshape(v, (-1,))) for v in (weight, change))
        moving = (size > 0) & (length > 0)
        return change * ops.where(moving, self.trust * size / ops.where(moving, length, 1.0), 1.0)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {"trust": self.trust}


def warmup_cosine(
    lr: float, steps: int, warmup: int, dtype: str = "float32"
) -> keras.optimizers.schedules.CosineDecay:
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0.

    Args:
        lr: peak of the learning rate.
        steps: number of steps of the whole run.
        warmup: number of steps, at the beginning, in which the rate rises.
        dtype: dtype in which the rate is computed.
    """
    # Keras takes the dtype from the first number, and a Python number for a float32.
    start, peak = (np.asarray(rate, dtype) for rate in (lr / max(1, warmup), lr))
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(
        start, steps - warmup, warmup_target=peak, warmup_steps=warmup
    )


def build_optimizer(
    weights: list[Any], name: str, rate: Any, momentum: float, weight_decay: float
) -> keras.optimizers.Optimizer:
    """The optimiser of some weights; norms and biases have no decay.

    Args:
        weights: weights that are trained.
        name: "sgd", "adamw" or "lars".
        rate: learning rate, or its schedule.
        momentum: momentum of SGD and LARS.
        weight_decay: weight decay of what is neither a norm nor a bias.
    """
    if name == "adamw":
        # Keras' default for epsilon is ten times that of PyTorch and Optax.
        adamw = keras.optimizers.AdamW(rate, weight_decay, epsilon=1e-8)
        if any(w.dtype == "float64" for w in weights):
            # TensorFlow takes Python numbers for float32 where Keras casts them.
            adamw.beta_1, adamw.beta_2 = np.float64(adamw.beta_1), np.float64(adamw.beta_2)
        adamw.exclude_from_weight_decay([w for w in weights if len(w.shape) <= 1])
        return adamw
    return {"sgd": SGD, "lars": LARS}[name](rate, momentum, weight_decay)
