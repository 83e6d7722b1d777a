"""One adapter per framework: the tests speak NumPy, the adapter the framework."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fmicl_core import FMICL

ARGUMENTS = ("x", "y", "bank")


@dataclass
class Result:
    """A loss, its terms and its gradients as NumPy, with the dtypes the framework gave them."""

    loss: float
    alignment: float
    uniformity: float
    grads: dict[str, np.ndarray]
    dtypes: dict[str, str] = field(default_factory=dict)


class TorchBackend:
    """fmicl_torch seen from NumPy."""

    name = "torch"
    array_name = "torch.Tensor"

    def __init__(self, require: Any) -> None:
        self.torch = require("torch")
        self.library = require("fmicl_torch")
        self.tiled = require("fmicl_torch.tiled")

    def array(self, value: Any, dtype: str = "float64") -> Any:
        return self.torch.tensor(np.asarray(value), dtype=getattr(self.torch, dtype))

    def elsewhere(self, array: Any) -> Any:
        """The array on another device, or None where the framework moves data by itself."""
        return array.to("meta")

    def rounded(self, value: np.ndarray, dtype: str) -> np.ndarray:
        """The values as the dtype holds them, in float64."""
        return self.array(value, dtype).double().numpy()

    def set_tile(self, monkeypatch: Any, size: int) -> None:
        monkeypatch.setitem(self.tiled.TILE, "cpu", size)

    def evaluate(
        self,
        x: np.ndarray,
        y: np.ndarray,
        bank: np.ndarray | None = None,
        objective: FMICL | None = None,
        dtype: str = "float64",
        implementation: str = "auto",
    ) -> Result:
        """Loss, terms and gradients of the library's `fmicl_terms`."""
        o = objective or FMICL()
        given = {k: v for k, v in zip(ARGUMENTS, (x, y, bank), strict=True) if v is not None}
        leaves = {k: self.array(v, dtype).requires_grad_() for k, v in given.items()}
        terms = self.library.fmicl_terms(
            leaves["x"], leaves["y"], bank=leaves.get("bank"), divergence=o.divergence,
            similarity=o.similarity, alpha=o.alpha, negatives=o.negatives, normalize=o.normalize,
            implementation=implementation,
        )  # fmt: skip
        terms.loss.backward()
        zero = {k: self.torch.zeros_like(v) for k, v in leaves.items()}
        grads = {k: v.grad if v.grad is not None else zero[k] for k, v in leaves.items()}
        dtypes = {k: str(g.dtype).removeprefix("torch.") for k, g in grads.items()}
        dtypes["loss"] = str(terms.loss.dtype).removeprefix("torch.")
        values = [t.item() for t in terms]
        return Result(*values, {k: g.double().numpy() for k, g in grads.items()}, dtypes)

    def related(self, name: str, x: np.ndarray, y: np.ndarray, **options: Any) -> Result:
        """Value and gradient of a related loss; `bank` among the options is an array."""
        leaves = {k: self.array(v).requires_grad_() for k, v in (("x", x), ("y", y))}
        if options.get("bank") is not None:
            options["bank"] = self.array(options["bank"])
        loss = getattr(self.library, name)(leaves["x"], leaves["y"], **options)
        loss.backward()
        return Result(loss.item(), 0.0, 0.0, {k: v.grad.numpy() for k, v in leaves.items()})


#: Adding a framework: one adapter with these methods, one line here.
ADAPTERS = {"torch": TorchBackend}


@pytest.fixture(scope="session", params=ADAPTERS)
def backend(request, require):
    """Every backend in turn; a missing framework is skipped with the reason, and fails in CI."""
    return ADAPTERS[request.param](require)
