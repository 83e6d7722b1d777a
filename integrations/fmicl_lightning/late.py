"""Losses that are read a step late, so that the device never waits for Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Loss(NamedTuple):
    """The loss of a step."""

    step: int
    value: float


class LateLosses:
    """The losses of the last steps, on their way from the device to the host.

    To read a number of a GPU is to wait for all that the GPU has been given so far, the step that
    was just started included. Each loss is therefore copied in the order of the device's own work,
    and read when the step after it has been started. Not yet run on a GPU.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, torch.Tensor, Any]] = deque()

    def put(self, step: int, loss: torch.Tensor) -> None:
        """Send the loss of a step to the host, without waiting for it."""
        host = torch.empty((), dtype=torch.float64, pin_memory=loss.is_cuda)
        host.copy_(loss.detach().double(), non_blocking=True)
        copied = torch.cuda.Event() if loss.is_cuda else None
        if copied is not None:
            copied.record()
        self.waiting.append((step, host, copied))

    def take(self, leaving: int = 0) -> Iterator[Loss]:
        """The losses that wait, in order, but for the last ones.

        Args:
            leaving: number of losses that are left for later.
        """
        while len(self.waiting) > leaving:
            step, host, copied = self.waiting.popleft()
            if copied is not None:
                copied.synchronize()
            yield Loss(step, float(host.numpy()))
