"""One adapter per framework, which is imported only when its adapter is made.

The tests of the backends and `fmicl check` both speak through these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from fmicl_check.base import Adapter, Array, Derived


class Torch(Adapter):
    """fmicl_torch."""

    name = "torch"
    array_name = "torch.Tensor"

    def has_device(self) -> bool:
        return self.device == "cpu" or self.framework.cuda.is_available()

    def array(self, value: Any, dtype: str = "float64") -> Any:
        place = "cuda" if self.device == "gpu" else "cpu"
        kind = getattr(self.framework, dtype)
        return self.framework.tensor(np.asarray(value), dtype=kind, device=place)

    def numpy(self, array: Any) -> Array:
        wide = array.dtype if array.dtype.itemsize > 2 else self.framework.float64
        return array.detach().cpu().to(wide).numpy()

    def differentiate(self, function: Any, compiled: bool) -> Derived:
        torch = self.framework
        if compiled:
            torch.compiler.reset()  # past a limit of functions torch would run the next as it is
            function = torch.compile(function, backend="aot_eager", fullgraph=True)

        def run(leaves: Any, *fixed: Any) -> Any:
            leaves = {k: v.detach().requires_grad_() for k, v in leaves.items()}
            values = function(leaves, *fixed)
            inputs = list(leaves.values())
            gradients = torch.autograd.grad(
                values[0], inputs, allow_unused=True, materialize_grads=True
            )
            return values, dict(zip(leaves, gradients, strict=True))

        return run


class Jax(Adapter):
    """fmicl_jax."""

    name = "jax"
    array_name = "jax.Array"

    def has_device(self) -> bool:
        try:
            return bool(self.framework.devices(self.device))
        except RuntimeError:
            return False

    @contextmanager
    def precision(self, dtype: str) -> Iterator[None]:
        place = self.framework.default_device(self.framework.devices(self.device)[0])
        with self.framework.enable_x64(dtype == "float64"), place:
            yield

    def array(self, value: Any, dtype: str = "float64") -> Any:
        return self.framework.numpy.asarray(np.asarray(value)).astype(dtype)

    def numpy(self, array: Any) -> Array:
        return np.asarray(array, dtype=np.float64 if array.dtype.itemsize <= 2 else None)

    def differentiate(self, function: Any, compiled: bool) -> Derived:
        def first(leaves: Any, *fixed: Any) -> Any:
            values = function(leaves, *fixed)
            return values[0], values

        derived = self.framework.grad(first, has_aux=True)
        derived = self.framework.jit(derived) if compiled else derived

        def run(leaves: Any, *fixed: Any) -> Any:
            gradients, values = derived(leaves, *fixed)
            return values, gradients

        return run


class TensorFlow(Adapter):
    """fmicl_tensorflow."""

    name = "tensorflow"
    array_name = "tf.Tensor"

    def has_device(self) -> bool:
        return bool(self.framework.config.list_logical_devices(self.device.upper()))

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        return self.framework.device(f"/{self.device.upper()}:0")

    def array(self, value: Any, dtype: str = "float64") -> Any:
        return self.framework.cast(self.framework.constant(np.asarray(value)), dtype)

    def numpy(self, array: Any) -> Array:
        value = array.numpy()
        return value.astype(np.float64) if array.dtype.size <= 2 else value

    def differentiate(self, function: Any, compiled: bool) -> Derived:
        tf = self.framework

        def run(leaves: Any, *fixed: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(leaves)
                values = function(leaves, *fixed)
            return values, tape.gradient(values[0], leaves, unconnected_gradients="zero")

        return tf.function(run, jit_compile=True) if compiled else run


#: Adding a framework: one adapter, one line here.
ADAPTERS: dict[str, type[Adapter]] = {cls.name: cls for cls in (Torch, Jax, TensorFlow)}
