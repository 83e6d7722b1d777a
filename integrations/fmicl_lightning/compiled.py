"""The step of training as one graph of `torch.compile`: views, networks and loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from fmicl_core.checks import invalid

#: Function from a method, uint8 images (N, H, W, C) and a plan to what `contrast` returns.
Step = Callable[[Any, torch.Tensor, dict[str, Any]], Any]


def compiled_step(method: Any, images: torch.Tensor, plan: dict[str, Any]) -> Any:
    """What the method's `contrast_images` returns, compiled at the first call.

    Args:
        method: method that trains.
        images: uint8 images (N, H, W, C), every time of the same shape.
        plan: arguments of `contrast` beside the views. Numbers among them become arrays, since a
            number is part of what is compiled.

    Raises:
        ValueError: `torch.compile` does not work here, as without a compiler for C++.
    """
    arrays = {
        name: torch.tensor(value, dtype=torch.float32).to(images.device, non_blocking=True)
        if isinstance(value, float)
        else value
        for name, value in plan.items()
    }
    try:
        return _compiled()(method, images, arrays)
    except TorchDynamoException as error:
        said = " ".join(str(error).split("\n")[:2]).strip()
        raise invalid("compile", "False where torch.compile does not work", True,
                      why=f"It said: {said}.") from error  # fmt: skip


@cache
def _compiled() -> Step:
    """The compiled step of all methods; PyTorch keeps one graph for each.

    Random numbers are those of a step that is not compiled, and the same on every device.
    """
    return torch.compile(_step, dynamic=False, options={"fallback_random": True})


def _step(method: Any, images: torch.Tensor, plan: dict[str, Any]) -> Any:
    return method.contrast_images(images, plan)
