"""The losses that `benchmarks.peers --labels` compares: two views in one array, with labels.

The labels are ten classes in turn. Every loss takes the 2 N rows of `cat([x, y])` and their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.contestants import TEMPERATURE, Contestant
from fmicl_core import FMICL, fmicl_reference
from fmicl_core.related import info_nce_reference

CLASSES = 10
#: A loss of features (2N, D) and labels (2N,).
Labelled = Callable[[Any, Any], Any]


def labels_of(n: int) -> np.ndarray:
    """Labels of N samples, for both of their views."""
    return np.tile(np.arange(n) % CLASSES, 2)


def of_views(make: Callable[[], Labelled], library: str) -> Callable[[], Labelled]:
    """What makes the loss of two views of a loss of one array with labels."""

    def made() -> Callable[[Any, Any], Any]:
        loss, module = make(), import_module("torch" if library == "torch" else "jax.numpy")
        join = module.cat if library == "torch" else module.concatenate
        known: dict[int, Any] = {}

        def of(x: Any, y: Any) -> Any:
            labels = known.setdefault(len(x), module.asarray(labels_of(len(x))))
            return loss(join([x, y]), labels)

        return of

    return made


def sup_con_reference(x: np.ndarray, y: np.ndarray) -> float:
    """Supervised contrastive loss in float64."""
    return info_nce_reference(x, y, TEMPERATURE, ids=labels_of(len(x))[: len(x)])


def contestant(make: Callable[[], Labelled], library: str = "torch") -> Contestant:
    """A supervised contrastive loss."""
    return Contestant("SupCon", of_views(make, library), library, sup_con_reference)


def fmicl(divergence: str, library: str = "torch") -> Contestant:
    """f-MICL with labels."""

    def make() -> Labelled:
        loss = import_module(f"fmicl_{library}").FMICLLoss(divergence=divergence)
        return lambda z, labels: loss(z, ids=labels)

    def truth(x: np.ndarray, y: np.ndarray) -> float:
        z, labels = np.concatenate([x, y]), labels_of(len(x))
        return fmicl_reference(z, None, FMICL(divergence), ids=labels).loss

    return Contestant("f-MICL", of_views(make, library), library, truth)


def our_info_nce(library: str) -> Labelled:
    """Our supervised contrastive loss."""
    loss = import_module(f"fmicl_{library}").info_nce_loss
    return lambda z, labels: loss(z, ids=labels, temperature=TEMPERATURE)


def plain(compiled: bool = False) -> Labelled:
    """The loss as it is written in most code bases, with a mask of N x N."""
    import torch
    import torch.nn.functional as F

    def sup_con(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        z = F.normalize(z)
        others = ~torch.eye(len(z), dtype=torch.bool)
        logits = (z @ z.T / TEMPERATURE).masked_fill(~others, -torch.inf)
        log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        positive = (labels[:, None] == labels[None, :]) & others
        return -(log_share.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)).mean()

    return torch.compile(sup_con, dynamic=False) if compiled else sup_con  # type: ignore[no-any-return]


def metric_learning() -> Labelled:
    """`pytorch_metric_learning.losses.SupConLoss`."""
    from pytorch_metric_learning import losses

    return losses.SupConLoss(temperature=TEMPERATURE)  # type: ignore[no-any-return]


def optax_ntxent() -> Labelled:
    """`optax.losses.ntxent`, whose denominator has one positive at a time: another loss."""
    import optax

    return lambda z, labels: optax.losses.ntxent(z, labels, TEMPERATURE)


def ntxent_reference(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the positive pairs of log(e^s+ + sum over negatives of e^s-) - s+, in float64."""
    z, labels = np.concatenate([x, y]).astype(np.float64), labels_of(len(x))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    s, equal = z @ z.T / TEMPERATURE, labels[:, None] == labels[None, :]
    negatives = np.where(equal, 0.0, np.exp(s)).sum(axis=1, keepdims=True)
    positive = equal & ~np.eye(len(z), dtype=bool)
    return float((np.log(np.exp(s) + negatives) - s)[positive].mean())


LABELLED = {
    "fmicl KL": fmicl("kl"),
    "fmicl JS": fmicl("js"),
    "fmicl InfoNCE": contestant(partial(our_info_nce, "torch")),
    "plain PyTorch": contestant(plain),
    "torch.compile": contestant(partial(plain, compiled=True)),
    "metric-learning SupCon": contestant(metric_learning),
    "fmicl KL, JAX": fmicl("kl", "jax"),
    "fmicl InfoNCE, JAX": contestant(partial(our_info_nce, "jax"), "jax"),
    "optax": Contestant("NT-Xent per pair", of_views(optax_ntxent, "jax"), "jax", ntxent_reference),
}
