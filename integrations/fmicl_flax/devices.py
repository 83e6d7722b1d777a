"""Where JAX trains: one device, or several that share the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmicl_core.checks import invalid
from fmicl_recipes.settings import TrainSettings


def find_devices(settings: TrainSettings) -> Mesh:
    """The devices to train on, in a row named "batch"; of several processes, those of all.

    Raises:
        ValueError: JAX sees no such device, or a process too few.
    """
    try:
        devices = jax.devices(None if settings.device == "auto" else settings.device)
    except RuntimeError as error:
        raise invalid("device", "a device that JAX sees", settings.device,
                      why=f"{error}.") from None  # fmt: skip
    of_each = [
        [device for device in devices if device.process_index == index]
        for index in range(jax.process_count())
    ]
    if settings.devices > (fewest := min(map(len, of_each))):
        limit = f"at most the {fewest} devices that JAX sees"
        raise invalid("devices", limit, settings.devices)
    chosen = [device for own in of_each for device in own[: settings.devices]]
    return Mesh(np.array(chosen), ("batch",))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding that puts a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def place(mesh: Mesh, *parts: Any) -> Any:
    """Trees of arrays on the devices; an array with a row a sample is divided among them.

    Each process gives the rows of its own devices.
    """
    shares = NamedSharding(mesh, PartitionSpec("batch"))
    where = jax.tree.map(lambda x: shares if np.ndim(x) else everywhere(mesh), parts)
    return put(parts, where)


def put(tree: Any, where: Any) -> Any:
    """A tree of arrays by a sharding or a tree of them; each process gives its devices' parts."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)
    if isinstance(where, NamedSharding):
        where = jax.tree.map(lambda x: where, tree)
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
        tree, where,
    )  # fmt: skip


def own_copy(tree: Any) -> Any:
    """What is on every device, as it is on the first one of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def over_devices(loss: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """The loss, shared out among several devices where it has an argument that names them.

    Any other loss XLA computes of all rows, as one device would.

    Args:
        loss: function of features, as for `Method`.
        mesh: devices to train on.
    """
    if mesh.size == 1 or "axis_name" not in inspect.signature(loss).parameters:
        return loss
    return LossOverDevices(loss, mesh)


@dataclass(frozen=True)
class LossOverDevices:
    """A loss of all rows, of which every device has a part: no device holds all of them.

    Args:
        loss: function of features that takes `axis_name`.
        mesh: devices, in a row named "batch".
    """

    loss: Callable[..., jax.Array]
    mesh: Mesh

    def __call__(self, x: jax.Array, y: jax.Array | None = None, **more: jax.Array) -> jax.Array:
        """The loss of x (N, D) and, if given, y (N, D), bank (K, D), ids (N,), bank_ids (K,)."""
        shared, whole = PartitionSpec("batch"), PartitionSpec()
        views = (x,) if y is None else (x, y)
        specs = {name: whole if name.startswith("bank") else shared for name in more}
        mapped = jax.shard_map(
            lambda views, more: self.loss(*views, **more, axis_name="batch"),
            mesh=self.mesh, in_specs=(shared, specs), out_specs=whole, check_vma=False,
        )  # fmt: skip
        loss: jax.Array = mapped(views, more)
        return loss


def free_memory(mesh: Mesh) -> int | None:
    """Bytes that are free on each of the devices; None where they do not say."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if not all(found and {"bytes_limit", "bytes_in_use"} <= found.keys() for found in stats):
        return None
    return min(found["bytes_limit"] - found["bytes_in_use"] for found in stats)
