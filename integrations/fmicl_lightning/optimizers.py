"""Optimiser and schedule of every method: SGD, AdamW or LARS, warm-up and cosine per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from fmicl_recipes.settings import TrainSettings


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose steps are scaled, weight by weight, to the weight's own size.

    g <- g + weight_decay w;  g <- g * trust |w| / |g|;  v <- momentum v + g;  w <- w - lr v

    The first two leave out norms and biases, parameters of at most one dimension.

    Args:
        params: parameters or groups of them.
        lr: learning rate, > 0.
        momentum: in [0, 1).
        weight_decay: >= 0.
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


def build_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser the settings name, over what is trained; no decay on norms and biases."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rest: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **rest)
    kind: Any = {"sgd": torch.optim.SGD, "lars": LARS}[settings.optimizer]
    optimizer: torch.optim.Optimizer = kind(groups, momentum=settings.momentum, **rest)
    return optimizer


def warmup_cosine(
    optimizer: torch.optim.Optimizer, steps: int, warmup: int
) -> lr_scheduler.LRScheduler:
    """Learning rate per step: from lr / warmup linearly to lr, then by a cosine down to 0.

    Args:
        optimizer: whose rate is scheduled.
        steps: of the whole run.
        warmup: of them, the first ones.
    """
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
    if not warmup:
        return cosine
    ramp = lr_scheduler.LinearLR(optimizer, 1.0 / warmup, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [warmup])
