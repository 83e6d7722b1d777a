"""Optimisers, SGD, AdamW and LARS, and the learning rate with warm-up and cosine."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


class SGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay in the gradient.

    g <- g + decay w;  v <- momentum v + g;  w <- w - lr v

    As in PyTorch and Optax. Keras' own has the rate in the velocity, v <- momentum v - lr g, which
    is another path where the rate changes, and its weight decay stands beside the momentum, where
    at equal settings it is weaker by 1 - momentum. Weights of at most one dimension, norms and
    biases, have no decay.

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
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            # Of tensors, since Keras takes a number times a variable for float32.
            gradient = self.momentum * ops.convert_to_tensor(velocity) + gradient
            self.assign(velocity, gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

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

    g <- g + decay w;  g <- g * trust |w| / |g|;  v <- momentum v + g;  w <- w - lr v

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


class AdamW(keras.optimizers.Adam):
    """Adam with a weight decay of its own (Loshchilov and Hutter 2019), as in PyTorch and Optax.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
    w <- w - lr (decay w + m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8))

    Keras' own adds an epsilon of 1e-7 to sqrt(v) before its correction, which counts where
    gradients are small. Weights of at most one dimension, norms and biases, have no decay.

    Args:
        learning_rate: number, or schedule.
        decay: weight decay, >= 0.
        options: options of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate: Any, decay: float = 0.0, **options: Any) -> None:
        super().__init__(learning_rate, **{"epsilon": 1e-8} | options)
        self.decay = decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one weight."""
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = ops.cast(self.iterations + 1, dtype)
        moments = []
        for kept, rate, new in (
            (self._momentums[index], self.beta_1, gradient),
            (self._velocities[index], self.beta_2, ops.square(gradient)),
        ):
            # Of tensors, since Keras takes a number times a variable for float32.
            moment = rate * ops.convert_to_tensor(kept) + (1.0 - rate) * new
            self.assign(kept, moment)
            moments.append(moment / -ops.expm1(step * math.log(rate)))  # 1 - rate^step
        change = moments[0] / (ops.sqrt(moments[1]) + self.epsilon)
        if len(variable.shape) > 1:
            change = change + self.decay * ops.convert_to_tensor(variable)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * change)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        config = super().get_config() | {"decay": self.decay}
        del config["weight_decay"]
        return config


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0.

    Keras has it too, in float32 alone.

    Args:
        lr: peak of the learning rate.
        steps: number of steps of the whole run.
        warmup: number of steps, at the beginning, in which the rate rises.
        dtype: dtype in which the rate is computed.
    """

    def __init__(self, lr: float, steps: int, warmup: int, dtype: str = "float32") -> None:
        super().__init__()
        self.lr, self.steps, self.warmup, self.dtype = lr, steps, warmup, dtype

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, from 0."""
        step, start = ops.cast(step, self.dtype), self.lr / max(1, self.warmup)
        rising = start + (self.lr - start) * step / max(1, self.warmup)
        done = ops.clip((step - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)
        falling = 0.5 * self.lr * (1.0 + ops.cos(math.pi * done))
        return ops.where(step < self.warmup, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {name: getattr(self, name) for name in ("lr", "steps", "warmup", "dtype")}


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
        return AdamW(rate, weight_decay)
    return {"sgd": SGD, "lars": LARS}[name](rate, momentum, weight_decay)
