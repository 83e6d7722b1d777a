"""A ring of devices: shards of the batch go round, so that no device ever holds the union."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Of what this device has made of its own rows, of its guests, of what was made for them so far and
#: of `once`: what was made of both anew. `once` says whether this device alone meets these guests;
#: otherwise their own device meets this one's rows at the same time.
Visit = Callable[[Any, Any, Any, jax.Array | bool], tuple[Any, Any]]


def go_round(
    visit: Visit, own: Any, guests: Any, made: Any, *, axis_name: str, symmetric: bool
) -> tuple[Any, Any]:
    """What devices make of their rows with the rows of all others: of their own, and as guests.

    Every device's rows visit the next device, then the one after it, and what is made for them
    travels with them, until it comes home. The steps are one `lax.scan`, so that compile time does
    not grow with the number of devices.

    Args:
        visit: function that a device calls when guests have arrived.
        own: tree of what this device has made of its own rows so far.
        guests: tree of what this device sends round: rows, and what belongs to them.
        made: tree of what is made for the guests, as it sets out.
        axis_name: axis of the devices.
        symmetric: whether a pair of devices has to meet once only, whoever is the guest.
    """
    devices = int(jax.lax.axis_size(axis_name))
    steps = devices // 2 if symmetric else devices - 1
    if steps == 0:
        return own, made
    at_once = symmetric and devices % 2 == 0  # in the last step they visit each other

    def step(state: Any, last: jax.Array) -> tuple[Any, None]:
        own, guests, made = state
        guests, made = _passed_on((guests, made), axis_name, 1)
        once = steps > 1 and ~last if at_once else True
        own, made = visit(own, guests, made, once)
        return (own, guests, made), None

    lasts = np.arange(1, steps + 1) == steps
    (own, _, made), _ = jax.lax.scan(step, _varying((own, guests, made), axis_name), lasts)
    return own, _passed_on(made, axis_name, -steps)


def _passed_on(tree: Any, axis_name: str, by: int) -> Any:
    """What the device so many places before this one has."""
    devices = int(jax.lax.axis_size(axis_name))
    places = [(device, (device + by) % devices) for device in range(devices)]
    return jax.tree.map(lambda array: jax.lax.ppermute(array, axis_name, places), tree)


def _varying(tree: Any, axis_name: str) -> Any:
    """The arrays as values that differ by device, as jax.shard_map wants of what a scan carries."""
    zero = 0 * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda array: array + zero.astype(jnp.asarray(array).dtype), tree)
