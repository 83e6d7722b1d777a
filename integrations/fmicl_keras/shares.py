"""Losses whose work is shared out among the devices that share the batch.

The replicas of TensorFlow see their shares of the batch, and its losses find the others by
themselves. In JAX, where `keras.distribution.DataParallel` shards the batch, arrays are whole in
the eyes of the program: the loss is mapped over the devices, which each have their share then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from fmicl_keras.backend import Tensor, is_traced


def shared_out(
    loss: Callable[..., Any], shares: dict[str, Tensor | None], /, **same: Tensor
) -> Any:
    """loss(**same) of the arrays `shares` (N, ...) of a batch, of which every device has a share.

    Args:
        loss: function of a backend's library; takes "x" and "y" by position.
        shares: arrays of the batch by name, "x" first; what is None is left out.
        same: what every device has all of, such as a bank.
    """
    shares = {name: value for name, value in shares.items() if value is not None}
    axis = _axis(shares["x"])
    if axis is None:
        return _called(loss, shares, same)
    import jax

    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    sharded, whole = jax.sharding.PartitionSpec(axis), jax.sharding.PartitionSpec()
    mapped = jax.shard_map(
        lambda shares, same: _called(loss, shares, same, axis_name=axis),
        mesh=mesh, in_specs=(sharded, whole), out_specs=whole,
    )  # fmt: skip
    return mapped(shares, same)


def _called(loss: Callable[..., Any], shares: Any, same: Any, **more: Any) -> Any:
    views = [shares[name] for name in ("x", "y") if name in shares]
    ids = {name: value for name, value in shares.items() if name not in ("x", "y")}
    return loss(*views, **ids, **same, **more)


def _axis(rows: Tensor) -> str | None:
    """The axis of JAX's mesh that a step in the making shares these rows along, or None.

    What cannot be shared equally, as some last batch, is computed whole.
    """
    if keras.config.backend() != "jax" or not is_traced(rows):
        return None
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.DataParallel):
        return None
    mesh = distribution.device_mesh
    count = mesh.devices.size
    if len(mesh.axis_names) > 1 or count == 1 or rows.shape[0] % count:
        return None
    return str(distribution.batch_dim_name)
