"""Where PyTorch trains: the devices that settings name."""

from __future__ import annotations

import torch

from fmicl_core.checks import invalid
from fmicl_recipes.settings import TrainSettings


def best_device() -> torch.device:
    """The machine's accelerator, or the CPU where it has none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def free_memory(settings: TrainSettings) -> int | None:
    """Bytes of memory that are free on the fullest device of a run; None where none says so.

    Not yet run on a GPU.
    """
    if settings.device == "cpu" or not torch.cuda.is_available():
        return None
    return min(torch.cuda.mem_get_info(index)[0] for index in range(settings.devices))


def check_devices(settings: TrainSettings) -> None:
    """Check before a run begins that PyTorch has the devices that settings name.

    Raises:
        ValueError: there is no GPU, or there are fewer.
    """
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if settings.device == "gpu" and not gpus:
        raise invalid("device", "cpu or auto, as PyTorch sees no GPU", settings.device)
    if settings.device != "cpu" and gpus and settings.devices > gpus:
        limit = f"at most {gpus}, the GPUs that PyTorch sees"
        raise invalid("devices", limit, settings.devices)
