"""Optimisers, SGD, AdamW and LARS, and the learning rate with warm-up and cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose steps are scaled, weight by weight, to the weight's own size.

    g <- g + weight_decay w;  g <- g * trust |w| / |g|;  v <- momentum v + g;  w <- w - lr v

    The first two leave out norms and biases, parameters of at most one dimension.

    Args:
        params: parameters, or groups of parameters.
        lr: learning rate, > 0.
        momentum: momentum in [0, 1).
        weight_decay: weight decay, >= 0.
        trust: size of a step, as a share of the weight's norm, at lr = 1.

    Source: You et al. (2017), in the form of MoCo v3 (Chen et al. 2021).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)
        return loss

    def _move(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        change = weight.grad
        assert change is not None
        if weight.ndim > 1:
            change = change.add(weight, alpha=group["weight_decay"])
            size, length = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(change)
            scale = group["trust"] * size / length
            change = change * torch.where((size > 0) & (length > 0), scale, 1.0)
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"].mul_(group["momentum"]).add_(change)
        weight.add_(velocity, alpha=-group["lr"])


def build_optimizer(
    module: nn.Module, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser of all that is trained in a module; norms and biases have no decay.

    Args:
        module: module whose parameters with `requires_grad` are trained.
        name: "sgd", "adamw" or "lars".
        lr: learning rate.
        momentum: momentum of SGD and LARS.
        weight_decay: weight decay of what is neither a norm nor a bias.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=weight_decay)
    kind: Any = {"sgd": torch.optim.SGD, "lars": LARS}[name]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr, momentum=momentum, weight_decay=weight_decay
    )
    return optimizer


def warmup_cosine(
    optimizer: torch.optim.Optimizer, steps: int, warmup: int
) -> lr_scheduler.LRScheduler:
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0.

    Args:
        optimizer: optimiser whose rate is scheduled.
        steps: number of steps of the whole run.
        warmup: number of steps, at the beginning, in which the rate rises.
    """
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
    if not warmup:
        return cosine
    ramp = lr_scheduler.LinearLR(optimizer, 1.0 / warmup, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [warmup])
