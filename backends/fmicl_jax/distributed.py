"""The loss of the union batch of all devices of a mesh axis, by `jax.shard_map` or `jax.pmap`.

Every device reports the global loss. Its gradient is exact however it is taken: outside the mapped
function, or inside it and averaged over the axis by `jax.lax.pmean`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fmicl_core import Pairwise
from fmicl_core.checks import invalid
from fmicl_core.ranks import check_union, warn_of_ranks
from fmicl_jax.plan import Numbers

#: Mean over a block: left, right (None means left), pairwise, skips_diagonal, numbers (None: no two
#: ids are equal) and, of positives, weights.
BlockMean = Callable[..., jax.Array]


def axis_size(axis_name: str, rows: jax.Array) -> int:
    """Number of devices along the axis.

    Raises:
        ValueError: there is no such axis here, or the union has fewer than two rows.
    """
    try:
        size = jax.lax.axis_size(axis_name)
    except NameError as error:
        raise invalid(
            "axis_name", "None, or an axis of the jax.shard_map or jax.pmap around the call",
            axis_name,
        ) from error  # fmt: skip
    check_union([len(rows)] * size)
    return int(size)


def tell_of_devices(loss: str, axis_name: str | None = None, *, knows: bool = True) -> None:
    """Warn, once, that a loss without `axis_name` is called inside of a map over devices.

    Args:
        loss: name of the loss.
        axis_name: what the loss was given.
        knows: whether the loss has the argument.
    """
    if axis_name is not None:
        return
    mesh = jax.sharding.get_abstract_mesh()
    if any(mesh.shape[axis] > 1 for axis in mesh.manual_axes):
        warn_of_ranks(loss, "Pass `axis_name=` for the loss of the union." if knows else "")


def shared_mean(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the union of one value a row, or of one value a device; a scalar.

    Without an axis the union is what this process has.
    """
    mean = values.mean() if values.ndim else values
    if axis_name is None:
        return mean
    return jax.lax.psum(mean / jax.lax.axis_size(axis_name), axis_name)


def against_all(block_mean: BlockMean, axis_name: str) -> BlockMean:
    """From a mean over one block of rows, the mean over this device's rows against all rows.

    It gathers the union; `fmicl_jax.tiled` does without.

    Args:
        block_mean: function of the dense form: the mean excess over the pairs of a
            block or, where it takes weights, the mean over the left rows of a sum over pairs.
        axis_name: axis of the mesh.
    """

    def mean(
        left: jax.Array,
        right: jax.Array | None,
        pairwise: Pairwise,
        skips_diagonal: bool,
        numbers: Numbers | None = None,
        *weights: jax.Array,
    ) -> jax.Array:
        if not skips_diagonal:  # every device has the whole bank
            return block_mean(left, right, pairwise, False, numbers)
        n, devices = len(left), jax.lax.axis_size(axis_name)
        pairs, total = devices * n - 1, jnp.zeros((), left.dtype)
        if n > 1 or weights:
            share = 1.0 if weights else (n - 1) / pairs
            total += share * block_mean(left, right, pairwise, True, numbers, *weights)
        if devices > 1:
            others = _others(left if right is None else right, axis_name)
            if numbers is not None:
                own, theirs = numbers
                numbers = own, _others(own if theirs is None else theirs, axis_name)
            share = 1.0 if weights else len(others) / pairs
            total += share * block_mean(left, others, pairwise, False, numbers, *weights)
        return total

    return mean


def union_of(arrays: Any, axis_name: str) -> Any:
    """The rows of all devices by name, the bank's excepted, which every device has."""
    if arrays is None:
        return None
    return {
        name: rows if name == "bank" else jax.lax.all_gather(rows, axis_name, tiled=True)
        for name, rows in arrays.items()
    }


def _others(rows: jax.Array, axis_name: str) -> jax.Array:
    """The rows of all other devices, ((W - 1) n, ...)."""
    union = jax.lax.all_gather(rows, axis_name, tiled=True)
    return jnp.roll(union, -len(rows) * jax.lax.axis_index(axis_name), axis=0)[len(rows) :]
