"""The backends seen from NumPy: one adapter per framework, imported only when it is made.

The tests of the backends and `fmicl check` both speak through these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fmicl_core import FMICL
from fmicl_core.checks import check_choice, invalid

Array = NDArray[Any]
DEVICES = ("cpu", "gpu")


@dataclass
class Result:
    """A loss, its terms and its gradients in NumPy, with the dtypes the framework gave them."""

    loss: float
    alignment: float
    uniformity: float
    grads: dict[str, Array]
    dtypes: dict[str, str] = field(default_factory=dict)


class Adapter:
    """One framework; subclasses say how it makes arrays, differentiates and compiles.

    Args:
        device: "cpu" or "gpu".

    Raises:
        ImportError: the framework is not installed.
        ValueError: the framework sees no such device.
    """

    #: Name of the framework, of its module and of the type of its arrays in messages.
    name: ClassVar[str]
    array_name: ClassVar[str]

    def __init__(self, device: str = "cpu") -> None:
        self.device = check_choice("device", device, DEVICES)
        self.framework: ModuleType = import_module(self.name)
        self.library: ModuleType = import_module(f"fmicl_{self.name}")
        if not self.has_device():
            raise invalid("device", f"a device that {self.name} sees", device)

    @property
    def version(self) -> str:
        """Version of the framework."""
        return str(self.framework.__version__)

    def has_device(self) -> bool:
        """Whether the framework sees the device."""
        return self.device == "cpu"

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        """A context in which arrays of the dtype can be made and computed with."""
        return nullcontext()

    def array(self, value: Any, dtype: str = "float64") -> Any:
        """The framework's array on the device."""
        raise NotImplementedError

    def numpy(self, array: Any) -> Array:
        """The array in NumPy; half precision as float64, which holds it exactly."""
        raise NotImplementedError

    def gradients(
        self, function: Callable[[dict[str, Any]], Any], leaves: dict[str, Any], compiled: bool
    ) -> tuple[Any, dict[str, Any]]:
        """Values of `function(leaves)`, a tuple of scalars, and the gradients of the first."""
        raise NotImplementedError

    def rounded(self, value: Array, dtype: str) -> Array:
        """The values as the dtype holds them, in float64."""
        with self.precision(dtype):
            return self.numpy(self.array(value, dtype)).astype(np.float64)

    def call(
        self,
        function: str,
        arrays: dict[str, Array | None],
        dtype: str = "float64",
        compiled: bool = False,
        **options: Any,
    ) -> Result:
        """Values and gradients of a public function of the backend.

        Args:
            function: its name, such as "fmicl_terms" or "info_nce_loss".
            arrays: "x", "y" and "bank"; the gradient is taken in all that are given.
            dtype: of the framework's arrays.
            compiled: let the framework compile it.
            options: its other options.
        """
        loss_of = getattr(self.library, function)
        with self.precision(dtype):
            leaves = {k: self.array(v, dtype) for k, v in arrays.items() if v is not None}

            def values(given: dict[str, Any]) -> tuple[Any, ...]:
                bank = {"bank": given["bank"]} if "bank" in given else {}
                value = loss_of(given["x"], given["y"], **bank, **options)
                return tuple(value) if isinstance(value, tuple) else (value,)

            scalars, gradients = self.gradients(values, leaves, compiled)
            numbers = [float(self.numpy(s)) for s in scalars] + [0.0] * (3 - len(scalars))
            dtypes = {k: _dtype_name(g) for k, g in gradients.items()}
            dtypes["loss"] = _dtype_name(scalars[0])
            grads = {k: self.numpy(g).astype(np.float64) for k, g in gradients.items()}
        return Result(*numbers, grads, dtypes)

    def evaluate(
        self,
        x: Array,
        y: Array,
        bank: Array | None = None,
        objective: FMICL | None = None,
        dtype: str = "float64",
        implementation: str = "auto",
        compiled: bool = False,
    ) -> Result:
        """Loss, terms and gradients of the backend's `fmicl_terms`."""
        o = objective or FMICL()
        return self.call(
            "fmicl_terms", {"x": x, "y": y, "bank": bank}, dtype, compiled,
            divergence=o.divergence, similarity=o.similarity, alpha=o.alpha,
            negatives=o.negatives, normalize=o.normalize, implementation=implementation,
        )  # fmt: skip


def _dtype_name(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


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

    def gradients(self, function: Any, leaves: Any, compiled: bool) -> Any:
        run = function
        if compiled:  # without a reset, the ninth version of a function would run eagerly
            self.framework.compiler.reset()
            run = self.framework.compile(function, fullgraph=True, backend="aot_eager")
        leaves = {k: v.requires_grad_() for k, v in leaves.items()}
        scalars = run(leaves)
        scalars[0].backward()
        zero = self.framework.zeros_like
        return scalars, {k: zero(v) if v.grad is None else v.grad for k, v in leaves.items()}


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

    def gradients(self, function: Any, leaves: Any, compiled: bool) -> Any:
        def first(given: Any) -> Any:
            scalars = function(given)
            return scalars[0], scalars

        run = self.framework.grad(first, has_aux=True)
        gradients, scalars = (self.framework.jit(run) if compiled else run)(leaves)
        return scalars, gradients


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

    def gradients(self, function: Any, leaves: Any, compiled: bool) -> Any:
        tf = self.framework

        def run(leaves: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(leaves)
                scalars = function(leaves)
            return scalars, tape.gradient(scalars[0], leaves, unconnected_gradients="zero")

        return (tf.function(run, jit_compile=True) if compiled else run)(leaves)


#: Adding a framework: one adapter, one line here.
ADAPTERS: dict[str, type[Adapter]] = {cls.name: cls for cls in (Torch, Jax, TensorFlow)}
