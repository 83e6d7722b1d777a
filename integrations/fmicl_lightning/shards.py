"""What is of all devices that train together: the loss of their batches, and gathered rows.

A loss of `fmicl_torch` takes each device's shard of the batch and is that of the union; another one
gets the features of all devices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lightning
import torch

#: Function from features x, y (N, d), and a bank of negatives (K, d) if there is one, to a scalar.
#: More than two views are one array x, and `ids` (N,), `bank_ids` (K,) say which rows belong
#: together; without them, and without labels, these are not passed.
Loss = Callable[..., torch.Tensor]


class OverDevices(lightning.LightningModule):
    """A module whose loss is that of the batch of all devices.

    Args:
        loss: function from features to a scalar.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        #: What the loss is told on several devices; None where it takes gathered features.
        self.over_devices = options_over_devices(loss)

    def setup(self, stage: str) -> None:
        """Tell an object of a loss that there are several devices."""
        told: Any = self.loss
        if self.world > 1 and getattr(told, "distributed", False) is None:
            told.distributed = True

    @property
    def world(self) -> int:
        """The number of devices that train together."""
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        return 1 if alone else torch.distributed.get_world_size()

    @property
    def rank(self) -> int:
        """The number of this device among those that train together, from 0."""
        return torch.distributed.get_rank() if self.world > 1 else 0

    def loss_of(
        self, *features: torch.Tensor, ids: torch.Tensor | None = None, **bank: torch.Tensor
    ) -> torch.Tensor:
        """The loss of the batch of all devices, of this device's features (N / W, d) and ids.

        Its gradient in them is W times too large, summed over W devices, and DDP's mean over the
        devices takes the W out again.

        Args:
            features: arrays that the loss compares.
            ids: labels or numbers of the rows; None where the loss takes none.
            bank: arguments of the loss that are the same on every device.
        """
        given = bank if ids is None else {"ids": ids, **bank}
        if self.world == 1:
            return self.loss(*features, **given)
        if self.over_devices is not None:
            return self.loss(*features, **given, **self.over_devices)
        if ids is not None:
            given["ids"] = self.gather(ids)
        return self.loss(*map(self.gather, features), **given)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all devices in their order, with gradient."""
        if self.world == 1:
            return rows
        everyone: Any = self.all_gather(rows, sync_grads=rows.requires_grad)  # (W, N / W, ...)
        return everyone.flatten(0, 1)


def options_over_devices(loss: Callable[..., torch.Tensor]) -> dict[str, Any] | None:
    """What a loss of `fmicl_torch` is told where several devices train; None for another loss.

    None means that the loss knows only the rows that it is given: these have to be gathered first.
    What was said when the loss was made, as `distributed=False`, is left as it is.

    Args:
        loss: function of features, or an object of a loss, whose own option `setup` sets.
    """
    if hasattr(loss, "distributed"):
        return {}
    try:
        argument = inspect.signature(loss).parameters.get("distributed")
    except (TypeError, ValueError):  # what is not written in Python may have no signature
        return None
    if argument is None:
        return None
    return {"distributed": True} if argument.default is None else {}


def widened(rows: torch.Tensor) -> torch.Tensor:
    """The rows in float32 at least."""
    return rows if rows.dtype == torch.float64 else rows.float()
