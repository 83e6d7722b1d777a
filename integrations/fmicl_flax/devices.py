"""Where JAX trains: one device, or several that share the batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmicl_core.checks import invalid
from fmicl_recipes.data import Images
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


def place(mesh: Mesh, images: Images, plan: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """Images and plan of a step on the devices; arrays with a row a sample are divided among them.

    The whole data set stays on the host, which sends the next batch while a step runs. Every device
    would need memory for all of it, since each batch is drawn from all of it.
    """
    shares = NamedSharding(mesh, PartitionSpec("batch"))
    where = jax.tree.map(lambda x: shares if np.ndim(x) else everywhere(mesh), (images, plan))
    return jax.device_put((images, plan), where)
