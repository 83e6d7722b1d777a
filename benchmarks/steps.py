"""One loss with its gradient in each framework, compiled where its users would compile it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fmicl_check import ADAPTERS
from fmicl_core import FMICL, fmicl_reference

#: Runs the loss with its gradient in x and y, waits for both, and returns the gradients.
Step = Callable[[], tuple[Any, Any]]


def views(n: int, d: int) -> list[np.ndarray]:
    """Two views of `n` samples, unit float32 rows of width `d`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    rows = [x, x + 0.5 * rng.normal(size=(n, d))]
    return [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in rows]


def torch_step(n: int, d: int, loss: str = "fmicl_loss", **options: Any) -> Step:
    """A loss of fmicl_torch, eager."""
    import fmicl_torch

    return torch_step_of(partial(getattr(fmicl_torch, loss), **options), n, d)


def torch_step_of(loss: Callable[[Any, Any], Any], n: int, d: int) -> Step:
    """Eager, as most PyTorch code is; gradients go into buffers that stay."""
    import torch

    x, y = (torch.from_numpy(v).requires_grad_() for v in views(n, d))

    def step() -> tuple[Any, Any]:
        for leaf in (x, y):
            leaf.grad = None
        loss(x, y).backward()
        return x.grad, y.grad

    return step


def jax_step(n: int, d: int, loss: str = "fmicl_loss", **options: Any) -> Step:
    """A loss of fmicl_jax."""
    import fmicl_jax

    return jax_step_of(partial(getattr(fmicl_jax, loss), **options), n, d)


def jax_step_of(loss: Callable[[Any, Any], Any], n: int, d: int) -> Step:
    """Under jax.jit."""
    import jax

    x, y = (jax.device_put(v) for v in views(n, d))
    run = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(run(x, y))  # type: ignore[no-any-return]


def tensorflow_step(n: int, d: int, loss: str = "fmicl_loss", **options: Any) -> Step:
    """A loss of fmicl_tensorflow."""
    import fmicl_tensorflow

    return tensorflow_step_of(partial(getattr(fmicl_tensorflow, loss), **options), n, d)


def tensorflow_step_of(loss: Callable[[Any, Any], Any], n: int, d: int) -> Step:
    """In a function that XLA compiles."""
    import tensorflow as tf

    x, y = (tf.constant(v) for v in views(n, d))

    @tf.function(jit_compile=True)
    def run(x: tf.Tensor, y: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((x, y))
            value = loss(x, y)
        return tape.gradient(value, (x, y))

    def step() -> tuple[Any, Any]:
        gradients = run(x, y)
        for gradient in gradients:
            if gradient is not None:  # the loss does not use y
                gradient.numpy()  # waits; on a CPU it is a view
        return gradients

    return step


STEPS: dict[str, Callable[..., Step]] = {
    "torch": torch_step,
    "jax": jax_step,
    "tensorflow": tensorflow_step,
}

#: The step of a loss of x and y, by framework.
STEPS_OF: dict[str, Callable[..., Step]] = {
    "torch": torch_step_of,
    "jax": jax_step_of,
    "tensorflow": tensorflow_step_of,
}


def worst_error(framework: str, divergence: str, negatives: str) -> float:
    """Largest relative error of loss and gradient, tiled float32 against the float64 reference."""
    x, y = views(1030, 64)
    objective = FMICL(divergence, negatives=negatives)
    got = ADAPTERS[framework]().evaluate(x, y, None, objective, "float32", "tiled")
    truth = fmicl_reference(x, y, objective)
    errors = [abs(got.loss - truth.loss) / abs(truth.loss)]
    for name, want in (("x", truth.grad_x), ("y", truth.grad_y)):
        errors.append(np.abs(got.grads[name] - want).max() / np.abs(want).max())
    return float(f"{max(errors):.1e}")
