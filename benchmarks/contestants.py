"""The losses that `benchmarks.peers` compares, each as its users would run it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.steps import jax_step_of, torch_step_of, views
from fmicl_core import FMICL, fmicl_reference
from fmicl_core.related import info_nce_reference

TEMPERATURE = 0.5


def nt_xent_reference(x: np.ndarray, y: np.ndarray) -> float:
    """NT-Xent in float64."""
    return info_nce_reference(x, y, TEMPERATURE)


@dataclass(frozen=True)
class Contestant:
    """A loss of two views.

    Args:
        computes: "NT-Xent", "SupCon" or "f-MICL".
        make: imports what it needs and returns the loss, a function of x and y (N, D).
        framework: "torch" or "jax".
        truth: the same loss in float64.
    """

    computes: str
    make: Callable[[], Callable[[Any, Any], Any]]
    framework: str = "torch"
    truth: Callable[[np.ndarray, np.ndarray], float] = nt_xent_reference

    def step(self, n: int, d: int) -> Callable[[], Any]:
        """Runs loss and gradient once and returns the gradients."""
        return {"torch": torch_step_of, "jax": jax_step_of}[self.framework](self.make(), n, d)

    def error(self, n: int, d: int) -> float:
        """Relative error of the loss."""
        x, y = views(n, d)
        value = float(self.make()(*(as_array(v, self.framework) for v in (x, y))))
        truth = self.truth(x, y)
        return abs(value - truth) / abs(truth)

    @property
    def saved(self) -> Callable[[int, int], int] | None:
        """Bytes that autograd keeps from forward to backward, where it can be asked."""
        return partial(saved_bytes, self.make) if self.framework == "torch" else None


def as_array(v: np.ndarray, framework: str) -> Any:
    """As that framework's array."""
    if framework == "jax":
        import jax

        return jax.device_put(v)
    import torch

    return torch.from_numpy(v)


def saved_bytes(make: Callable[[], Callable[[Any, Any], Any]], n: int, d: int) -> int:
    """Bytes of the tensors that autograd packs, each storage once, inputs left out."""
    import torch

    x, y = (as_array(v, "torch").requires_grad_() for v in views(n, d))
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = make()(x, y)
    del value
    for leaf in (x, y):
        sizes.pop(leaf.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


# Ours


def fmicl(divergence: str, library: str = "fmicl_torch") -> Contestant:
    """f-MICL of the pairs that NT-Xent has."""
    objective = FMICL(divergence, negatives="all")

    def make() -> Callable[[Any, Any], Any]:
        loss: Callable[[Any, Any], Any] = import_module(library).FMICLLoss(
            divergence=divergence, negatives="all"
        )
        return loss

    def truth(x: np.ndarray, y: np.ndarray) -> float:
        return fmicl_reference(x, y, objective).loss

    return Contestant("f-MICL", make, library.removeprefix("fmicl_"), truth)


def our_info_nce(library: str = "fmicl_torch") -> Contestant:
    """Our NT-Xent."""

    def make() -> Callable[[Any, Any], Any]:
        return partial(import_module(library).info_nce_loss, temperature=TEMPERATURE)

    return Contestant("NT-Xent", make, library.removeprefix("fmicl_"))


# Theirs


def plain(compiled: bool = False) -> Callable[[Any, Any], Any]:
    """NT-Xent as it is written in most code bases."""
    import torch
    import torch.nn.functional as F

    def nt_xent(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = F.normalize(torch.cat([x, y]))
        logits = z @ z.T / TEMPERATURE
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        targets = (torch.arange(len(z)) + len(x)) % len(z)
        return F.cross_entropy(logits, targets)

    return torch.compile(nt_xent, dynamic=False) if compiled else nt_xent  # type: ignore[no-any-return]


def lightly() -> Callable[[Any, Any], Any]:
    """`lightly.loss.NTXentLoss`, which needs two numbers a pair and keeps a mask of them."""
    without_torchvision()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)  # type: ignore[no-any-return]


def without_torchvision() -> None:
    """Let lightly be imported where torchvision cannot, beside a CPU build of PyTorch.

    Its losses do not use it; its package imports it for models.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        from unittest.mock import MagicMock

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        parts = ("ops", "models", "models.vision_transformer", "transforms",
                 "transforms.functional", "datasets", "io")  # fmt: skip
        for name in ("torchvision", *(f"torchvision.{part}" for part in parts)):
            sys.modules[name] = stand_in(name, MagicMock)


def stand_in(name: str, value: Callable[[], Any]) -> ModuleType:
    """A module that has every attribute."""
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    module.__version__ = "0.0.0"  # type: ignore[attr-defined]
    module.__getattr__ = lambda _: value()  # type: ignore[method-assign]
    return module


def bare_package(name: str) -> None:
    """Let files of a package be imported, but not what its own `__init__` imports, as torchvision.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = module


def metric_learning(kind: str) -> Callable[[Any, Any], Any]:
    """A loss of pytorch-metric-learning: a sample is a class of two."""
    import torch
    from pytorch_metric_learning import losses

    loss = getattr(losses, kind)(temperature=TEMPERATURE)

    def of_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        labels = torch.arange(len(x)).repeat(2)
        return loss(torch.cat([x, y]), labels)  # type: ignore[no-any-return]

    return of_views


def optax_ntxent() -> Callable[[Any, Any], Any]:
    """`optax.losses.ntxent`: a sample is a class of two."""
    import jax.numpy as jnp
    import optax

    def of_views(x: Any, y: Any) -> Any:
        labels = jnp.tile(jnp.arange(len(x)), 2)
        return optax.losses.ntxent(jnp.concatenate([x, y]), labels, TEMPERATURE)

    return of_views


CONTESTANTS = {
    "fmicl KL": fmicl("kl"),
    "fmicl JS": fmicl("js"),
    "fmicl InfoNCE": our_info_nce(),
    "plain PyTorch": Contestant("NT-Xent", plain),
    "torch.compile": Contestant("NT-Xent", partial(plain, compiled=True)),
    "lightly": Contestant("NT-Xent", lightly),
    "metric-learning NTXent": Contestant("NT-Xent", partial(metric_learning, "NTXentLoss")),
    "metric-learning SupCon": Contestant("SupCon", partial(metric_learning, "SupConLoss")),
    "fmicl KL, JAX": fmicl("kl", "fmicl_jax"),
    "fmicl InfoNCE, JAX": our_info_nce("fmicl_jax"),
    "optax": Contestant("NT-Xent", optax_ntxent, "jax"),
}
