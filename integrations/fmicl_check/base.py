"""What tests and `fmicl check` ask of a framework: arrays in, numbers out, both in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fmicl_core import FMICL, forms
from fmicl_core.checks import check_choice, invalid

Array = NDArray[Any]
#: Takes a dictionary of arrays, and perhaps more; gives values and gradients.
Derived = Callable[..., tuple[Any, dict[str, Any]]]
DEVICES = ("cpu", "gpu")


@dataclass
class Result:
    """A loss, its terms and its gradients in NumPy, with the dtypes they had in the framework.

    Args:
        loss: value of the loss.
        score: mean score of the positive pairs.
        penalty: mean penalty of the negative pairs.
        grads: gradients of the loss, by the names of the arrays.
        dtypes: names of the dtypes of the loss and of the gradients, by name.
        alpha: weight of the penalty.
    """

    loss: float
    score: float
    penalty: float
    grads: dict[str, Array]
    dtypes: dict[str, str] = field(default_factory=dict)
    alpha: float = 0.0


class Adapter:
    """One framework seen from NumPy; subclasses make its arrays, differentiate and compile.

    Args:
        device: device to compute on, "cpu" or "gpu".

    Raises:
        ImportError: the framework is not installed.
        ValueError: the framework sees no such device.
    """

    #: Name of the framework and of its module, and the name that messages give its arrays.
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

    def differentiate(self, function: Callable[..., Any], compiled: bool) -> Derived:
        """A function that gives the values of another one and their derivative.

        Args:
            function: function of a dictionary of arrays, the leaves, and perhaps of more arrays;
                its values are a tuple that starts with a scalar.
            compiled: whether the framework compiles the result.

        Returns:
            A function of the same arguments, of the values and, by name, the first one's gradients.
        """
        raise NotImplementedError

    def gradients(
        self, function: Callable[[dict[str, Any]], Any], leaves: dict[str, Any], compiled: bool
    ) -> tuple[Any, dict[str, Any]]:
        """The values of `function(leaves)`, a tuple of scalars, and the gradients of the first."""
        return self.differentiate(function, compiled)(leaves)

    @contextmanager
    def tiles(self, size: int) -> Iterator[None]:
        """Let the tiled form take tiles of at most so many rows and columns."""
        kept = dict(forms.TILE)
        forms.TILE.update(dict.fromkeys(kept, size))
        try:
            yield
        finally:
            forms.TILE.update(kept)

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
        ids: dict[str, Array | None] | None = None,
        **options: Any,
    ) -> Result:
        """Values and gradients of a public function of the backend.

        Args:
            function: name of the function, such as "fmicl_terms" or "info_nce_loss".
            arrays: features by argument, "x", "y" and "bank", and scalars such as "logit_scale" as
                arrays of no dimension; all but None get a gradient.
            ids: whole numbers of the rows by argument, "ids" and "bank_ids".
            dtype: dtype of the framework's arrays.
            compiled: whether the framework compiles the function.
            options: other options of the function.
        """
        loss_of = getattr(self.library, function)
        with self.precision(dtype):
            leaves = {k: self.array(v, dtype) for k, v in arrays.items() if v is not None}
            named = {k: v for k, v in (ids or {}).items() if v is not None}
            fixed = [self.array(v, v.dtype.name) for v in named.values()]

            def values(given: dict[str, Any], *fixed: Any) -> tuple[Any, ...]:
                more = dict(zip(named, fixed, strict=True))
                more |= {k: v for k, v in given.items() if k not in ("x", "y")}
                value = loss_of(given["x"], given.get("y"), **more, **options)
                return tuple(value) if isinstance(value, tuple) else (value,)

            scalars, gradients = self.differentiate(values, compiled)(leaves, *fixed)
            numbers = [float(self.numpy(s)) for s in scalars] + [0.0] * (4 - len(scalars))
            dtypes = {k: _dtype_name(g) for k, g in gradients.items()}
            dtypes["loss"] = _dtype_name(scalars[0])
            grads = {k: self.numpy(g).astype(np.float64) for k, g in gradients.items()}
        return Result(numbers[0], numbers[1], numbers[2], grads, dtypes, numbers[3])

    def evaluate(
        self,
        x: Array,
        y: Array | None,
        bank: Array | None = None,
        objective: FMICL | None = None,
        dtype: str = "float64",
        implementation: str = "auto",
        compiled: bool = False,
        ids: Array | None = None,
        bank_ids: Array | None = None,
    ) -> Result:
        """Loss, terms and gradients of the backend's `fmicl_terms`; scalars that learn have one."""
        o = objective or FMICL()
        learned = {"logit_scale": o.logit_scale, "logit_bias": o.logit_bias}
        scalars = {k: np.array(v) for k, v in learned.items() if v is not None}
        return self.call(
            "fmicl_terms", {"x": x, "y": y, "bank": bank, **scalars}, dtype, compiled,
            {"ids": ids, "bank_ids": bank_ids},
            negatives=o.negatives, normalize=o.normalize, positives=o.positives,
            implementation=implementation, divergence=o.divergence, similarity=o.similarity,
            alpha=o.alpha, strength=o.strength,
        )  # fmt: skip


def _dtype_name(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def describe(error: Exception) -> str:
    """An exception in one line. A long one keeps both ends, since TensorFlow gives reasons last."""
    text = " ".join(str(error).split())
    short = text if len(text) <= 240 else f"{text[:80]} ... {text[-150:]}"
    return f"{type(error).__name__}: {short}"
