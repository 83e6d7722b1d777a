"""Where JAX trains: one device, or several that share the batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmicl_core.checks import invalid
from fmicl_recipes.settings import TrainSettings


def find_devices(settings: TrainSettings) -> Mesh:
    """The devices to train on, in a row named "batch".

    Raises:
        ValueError: JAX sees no such device, or too few.
    """
    try:
        devices = jax.devices(None if settings.device == "auto" else settings.device)
    except RuntimeError as error:
        raise invalid("device", "a device that JAX sees", settings.device,
                      why=f"{error}.") from None  # fmt: skip
    if settings.devices > len(devices):
        limit = f"at most the {len(devices)} devices that JAX sees"
        raise invalid("devices", limit, settings.devices)
    return Mesh(np.array(devices[: settings.devices]), ("batch",))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding that puts a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def place(mesh: Mesh, *parts: Any) -> Any:
    """Trees of arrays on the devices; an array with a row a sample is divided among them."""
    shares = NamedSharding(mesh, PartitionSpec("batch"))
    where = jax.tree.map(lambda x: shares if np.ndim(x) else everywhere(mesh), parts)
    return jax.device_put(parts, where)


def free_memory(mesh: Mesh) -> int | None:
    """Bytes that are free on each of the devices; None where they do not say."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if not all(found and {"bytes_limit", "bytes_in_use"} <= found.keys() for found in stats):
        return None
    return min(found["bytes_limit"] - found["bytes_in_use"] for found in stats)
