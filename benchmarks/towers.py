"""The losses that `benchmarks.peers --towers` compares: SigLIP and CLIP; scale and bias learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant, bare_package
from fmicl_core.family import FAMILY_DEFAULTS, clip_reference, siglip_reference

#: Rows of a chunk, where a loss is taken in chunks.
CHUNK = 1024
Loss = Callable[[Any, Any], Any]


def siglip_truth(x: np.ndarray, y: np.ndarray) -> float:
    """SigLIP in float64."""
    return siglip_reference(x, y)


def clip_truth(x: np.ndarray, y: np.ndarray) -> float:
    """CLIP in float64."""
    return clip_reference(x, y)


def siglip(make: Callable[[], Loss], library: str = "torch") -> Contestant:
    """A SigLIP loss."""
    return Contestant("SigLIP", make, library, siglip_truth)


def clip(make: Callable[[], Loss], library: str = "torch") -> Contestant:
    """A CLIP loss."""
    return Contestant("CLIP", make, library, clip_truth)


def parameters() -> tuple[Any, Any, Any]:
    """Logarithms of the scales of SigLIP and of CLIP, and the bias, which learn."""
    import torch

    of = FAMILY_DEFAULTS
    values = math.log(of.siglip_scale), math.log(of.clip_scale), of.siglip_bias
    return tuple(torch.nn.Parameter(torch.tensor(v)) for v in values)  # type: ignore[return-value]


# Ours


def ours(name: str) -> Loss:
    """A module of fmicl_torch."""
    import fmicl_torch

    module: Loss = getattr(fmicl_torch, name)()
    return module


def ours_jax(name: str) -> Loss:
    """A function of fmicl_jax; its scalars are numbers here."""
    import fmicl_jax

    return getattr(fmicl_jax, name)  # type: ignore[no-any-return]


# Theirs


def plain_siglip(compiled: bool = False) -> Loss:
    """SigLIP as in the pseudo-code of its paper."""
    import torch
    import torch.nn.functional as F

    log_scale, _, bias = parameters()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = log_scale.exp() * F.normalize(x) @ F.normalize(y).T + bias
        labels = 2 * torch.eye(len(x)) - 1
        return -F.logsigmoid(labels * logits).sum() / len(x)

    return torch.compile(loss, dynamic=False) if compiled else loss  # type: ignore[no-any-return]


def plain_clip(compiled: bool = False) -> Loss:
    """CLIP as in the pseudo-code of its paper."""
    import torch
    import torch.nn.functional as F

    _, log_scale, _ = parameters()

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = log_scale.exp() * F.normalize(x) @ F.normalize(y).T
        labels = torch.arange(len(x))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    return torch.compile(loss, dynamic=False) if compiled else loss  # type: ignore[no-any-return]


def open_clip(name: str) -> Any:
    """A loss of open_clip: its file alone, since the package imports torchvision."""
    bare_package("open_clip")
    return getattr(import_module("open_clip.loss"), name)()


def open_clip_siglip(chunk: int | None = None) -> Loss:
    """`open_clip.loss.SigLipLoss`; in chunks as over ranks, each once more in the backward pass."""
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint

    log_scale, _, bias = parameters()
    theirs = open_clip("SigLipLoss")

    def part(x: Any, y: Any, negatives: bool) -> Any:
        return theirs._loss(x, y, log_scale.exp(), bias, negative_only=negatives) * len(x)

    def loss(x: Any, y: Any) -> Any:
        x, y = F.normalize(x), F.normalize(y)
        if chunk is None:
            return theirs(x, y, log_scale.exp(), bias)
        total = sum(
            checkpoint(part, a, b, i != j, use_reentrant=False)
            for i, a in enumerate(x.split(chunk)) for j, b in enumerate(y.split(chunk))
        )  # fmt: skip
        return total / len(x)

    return loss


def open_clip_clip() -> Loss:
    """`open_clip.loss.ClipLoss`."""
    import torch.nn.functional as F

    _, log_scale, _ = parameters()
    theirs = open_clip("ClipLoss")
    return lambda x, y: theirs(F.normalize(x), F.normalize(y), log_scale.exp())


TOWERS = {
    "fmicl SigLIP": siglip(partial(ours, "SigLIPLoss")),
    "plain SigLIP": siglip(plain_siglip),
    "SigLIP, torch.compile": siglip(partial(plain_siglip, compiled=True)),
    "open_clip SigLIP": siglip(open_clip_siglip),
    "open_clip SigLIP, chunks": siglip(partial(open_clip_siglip, CHUNK)),
    "fmicl SigLIP, JAX": siglip(partial(ours_jax, "siglip_loss"), "jax"),
    "fmicl CLIP": clip(partial(ours, "CLIPLoss")),
    "plain CLIP": clip(plain_clip),
    "CLIP, torch.compile": clip(partial(plain_clip, compiled=True)),
    "open_clip CLIP": clip(open_clip_clip),
    "fmicl CLIP, JAX": clip(partial(ours_jax, "clip_loss"), "jax"),
}
