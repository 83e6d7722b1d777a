"""Stochastic gradient descent with momentum, by each framework's own optimiser where it has one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fmicl_check.base import Adapter

Arrays = dict[str, Any]


class SGD:
    """v = momentum v + gradient, w = w - rate v, in plain arithmetic of any framework.

    Args:
        adapter: adapter of the framework.
        weights: weights to optimise.
        rate: learning rate.
        momentum: momentum in [0, 1).
    """

    def __init__(self, adapter: Adapter, weights: Arrays, rate: float, momentum: float) -> None:
        self.rate, self.momentum = rate, momentum
        self.velocity: Arrays = {}

    def step(self, weights: Arrays, gradients: Arrays) -> Arrays:
        """The weights after one step."""
        old = self.velocity
        self.velocity = {k: self.momentum * old[k] + g if old else g for k, g in gradients.items()}
        return {k: w - self.rate * self.velocity[k] for k, w in weights.items()}


class TorchSGD(SGD):
    """torch.optim.SGD."""

    def __init__(self, adapter: Adapter, weights: Arrays, rate: float, momentum: float) -> None:
        self.weights = {k: w.clone() for k, w in weights.items()}
        optim = adapter.framework.optim
        self.optimizer = optim.SGD(list(self.weights.values()), lr=rate, momentum=momentum)

    def step(self, weights: Arrays, gradients: Arrays) -> Arrays:
        """The weights after one step."""
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        self.optimizer.step()
        return {k: w.clone() for k, w in self.weights.items()}


class OptaxSGD(SGD):
    """optax.sgd."""

    def __init__(self, adapter: Adapter, weights: Arrays, rate: float, momentum: float) -> None:
        self.optax = import_module("optax")
        self.optimizer = self.optax.sgd(rate, momentum)
        self.state = self.optimizer.init(weights)

    def step(self, weights: Arrays, gradients: Arrays) -> Arrays:
        """The weights after one step."""
        updates, self.state = self.optimizer.update(gradients, self.state, weights)
        updated: Arrays = self.optax.apply_updates(weights, updates)
        return updated


class KerasSGD(SGD):
    """keras.optimizers.SGD."""

    def __init__(self, adapter: Adapter, weights: Arrays, rate: float, momentum: float) -> None:
        tf = adapter.framework
        if tf.keras.backend.backend() != "tensorflow":
            raise ImportError("Keras is set to another backend")
        self.variables = {k: tf.Variable(w) for k, w in weights.items()}
        self.optimizer = tf.keras.optimizers.SGD(rate, momentum)

    def step(self, weights: Arrays, gradients: Arrays) -> Arrays:
        """The weights after one step."""
        pairs = [(gradients[k], variable) for k, variable in self.variables.items()]
        self.optimizer.apply_gradients(pairs)
        return {k: v.read_value() for k, v in self.variables.items()}


OWN = {"torch": TorchSGD, "jax": OptaxSGD, "tensorflow": KerasSGD}


def make_sgd(adapter: Adapter, weights: Arrays, rate: float, momentum: float) -> SGD:
    """The framework's own optimiser, or the plain one where it, or optax, is not installed."""
    try:
        return OWN[adapter.name](adapter, weights, rate, momentum)
    except ImportError:
        return SGD(adapter, weights, rate, momentum)
