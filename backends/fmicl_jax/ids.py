"""Which rows have equal ids: numbers that stand for the ids, their counts, and what rows weigh.

The number of a row is the index of the first row with its id. Numbers are small whole numbers
whatever the ids are, the same after the ids are renamed, and 0, 1, 2, ... where all ids differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmicl_core.checks import InvalidArgument, check_ids, invalid, no_negatives, no_positives
from fmicl_core.pairs import Pairs
from fmicl_jax.fused import device_of
from fmicl_jax.inputs import is_array
from fmicl_jax.plan import Numbers, Rows
from fmicl_jax.ring import go_round

#: One array that holds an id a row, or three, for ids of more bits than JAX has, or of two dtypes.
Keys = tuple[jax.Array, ...]


class RowIds(NamedTuple):
    """What ids say of the rows of this process, or of this device.

    Args:
        numbers: (N,) numbers of the rows by the name of their features; equal where the ids are.
        same: (N,) number of rows of x, on all devices, that have the id of a row.
        in_bank: (N,) number of the bank's rows that have the id of a row; None without `bank_ids`.
        paired: whether some row of x, on any device, has the id of another.
        total: number of rows of x on all devices.
        axis_name: axis of the devices, or None.
    """

    numbers: dict[str, jax.Array]
    same: jax.Array
    in_bank: jax.Array | None
    paired: jax.Array
    total: int
    axis_name: str | None

    def of(self, left: str, right: str) -> Numbers | None:
        """Numbers of the rows of a block; None where the right ones have no ids."""
        if right not in self.numbers:
            return None
        return self.numbers[left], None if left == right else self.numbers[right]

    def sums(self, rows: jax.Array) -> jax.Array:
        """For every row the sum of the rows with its id on all devices, itself included; (N, D).

        They are rows of x, or of y. What a device adds up for its ids passes round the others.
        """
        own = self.numbers["x"]
        if self.axis_name is None:
            return jnp.zeros_like(rows).at[own].add(rows)[own]
        ordered = jnp.sort(own)
        sums = jnp.zeros_like(rows).at[_first_places(ordered, own)].add(rows)

        def visit(total: jax.Array, guests: Any, made: None, once: Any) -> tuple[jax.Array, None]:
            ordered, sums = guests
            place = _first_places(ordered, own)
            return total + jnp.where((ordered[place] == own)[:, None], sums[place], 0.0), made

        here, _ = visit(jnp.zeros_like(rows), (ordered, sums), None, True)
        around: dict[str, Any] = {"axis_name": self.axis_name, "symmetric": False}
        total: jax.Array = go_round(visit, here, (ordered, sums), None, **around)[0]
        return total

    def weights(self, pairs: Pairs, dtype: jnp.dtype) -> jax.Array:
        """Weight of each positive of an anchor, 1 / (number of its positives), or 0; (N,).

        NaN, if no anchor on any device has a positive.
        """
        count = pairs.positives_of(self.same)
        weights = jnp.where(count > 0, 1.0 / jnp.maximum(count, 1), 0.0).astype(dtype)
        return jnp.where(self.paired, weights, jnp.nan) if pairs.single else weights

    def negative_shares(self, pairs: Pairs, rows: Rows) -> jax.Array:
        """Share of an anchor's pairs with the other rows that are negative pairs; (N,)."""
        dtype = rows["x"].dtype
        if not pairs.has_bank:
            return pairs.negatives_of(self.same.astype(dtype), self.total)
        alike = jnp.zeros_like(self.same) if self.in_bank is None else self.in_bank
        return pairs.negatives_of(alike.astype(dtype), len(rows["bank"]))

    def explain(self, pairs: Pairs, rows: Rows) -> InvalidArgument | None:
        """The error for ids that leave no positive or no negative pair, if they do."""
        if not pairs.positives_of(self.same).any():
            return no_positives(self.total)
        shares = self.negative_shares(pairs, rows)
        # Decoupled, every softmax needs a negative.
        if not (shares.all() if pairs.decoupled else shares.any()):
            return no_negatives(len(rows.get("bank", rows["x"])), pairs.has_bank)
        return None


def row_ids(
    ids: jax.Array, bank_ids: jax.Array | None, rows: Rows, axis_name: str | None = None
) -> RowIds:
    """The rows by their ids, of all devices along the axis where it is named.

    Args:
        ids, bank_ids, axis_name: as for `fmicl_loss`.
        rows: features by name, checked.

    Raises:
        ValueError: ids are no whole numbers, or not one a row.
    """
    given = {"ids": (ids, "x")} | ({} if bank_ids is None else {"bank_ids": (bank_ids, "bank")})
    checked = [_checked(name, value, rows[of]) for name, (value, of) in given.items()]
    keys, *more = _keys(checked)
    bank_keys = more[0] if more else tuple(key[:0] for key in keys)
    n = len(rows["x"])
    if axis_name is not None:
        keys = tuple(jax.lax.all_gather(key, axis_name, tiled=True) for key in keys)
    total = len(keys[0])
    numbers, counts = _numbered(keys, bank_keys)
    in_bank = counts[1] if more else None
    own = numbers[:total], counts[0], in_bank
    if axis_name is not None:
        start = n * jax.lax.axis_index(axis_name)
        own = jax.tree.map(lambda of_all: jax.lax.dynamic_slice_in_dim(of_all, start, n), own)
    by_name = dict.fromkeys(("x", "y") if "y" in rows else ("x",), own[0])
    by_name |= {"bank": numbers[total:]} if more else {}
    return RowIds(by_name, own[1], own[2], (counts[0] > 1).any(), total, axis_name)


def _checked(name: str, ids: jax.Array, rows: jax.Array) -> jax.Array | np.ndarray:
    """The ids, checked, and where they can meet the features: JAX puts NumPy's arrays anywhere."""
    if not is_array(ids):
        raise invalid(name, "a jax.Array", type(ids).__name__, what=f"type({name})")
    check_ids(name, ids.shape, ids.dtype.name, len(rows))
    if isinstance(ids, np.ndarray | jax.core.Tracer):
        return ids
    places = {device_of(rows)} if isinstance(rows, jax.core.Tracer) else rows.devices()
    return np.asarray(ids) if len(ids.devices()) == 1 and ids.devices() != places else ids


def _keys(arrays: list[jax.Array | np.ndarray]) -> list[Keys]:
    """For every array of ids its keys: all are equal where the ids are."""
    dtypes = {a.dtype if a.dtype.itemsize >= 4 else np.dtype(np.int32) for a in arrays}
    if len(dtypes) == 1 and dtypes == {jax.dtypes.canonicalize_dtype(d) for d in dtypes}:
        (dtype,) = dtypes
        return [(jnp.asarray(a, dtype),) for a in arrays]
    return [_words(a) for a in arrays]


def _words(ids: jax.Array | np.ndarray) -> Keys:
    """The lower and the upper half of 64 bits, and the sign, which tells uint64 from int64."""
    negative = ids < 0
    upper = ids >> 32 if ids.dtype.itemsize == 8 else 0 - negative.astype(np.int32)
    return tuple(jnp.asarray(word.astype(np.uint32)) for word in (ids, upper, negative))


@jax.jit
def _numbered(keys: Keys, bank_keys: Keys) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Numbers of the rows of x, then of the bank; how often those of x occur in each."""
    total = len(keys[0])
    every = [jnp.concatenate(pair) for pair in zip(keys, bank_keys, strict=True)]
    # Made of the keys, so that inside jax.shard_map it varies over the mesh axes that they do.
    places = jnp.arange(len(every[0]), dtype=jnp.int32) + 0 * every[0].astype(jnp.int32)
    *ordered, order = jax.lax.sort((*every, places), num_keys=len(every), is_stable=True)
    differs = jnp.stack([key[1:] != key[:-1] for key in ordered]).any(axis=0)
    starts = jnp.concatenate([places[:1] == places[:1], differs])
    first = order[jax.lax.cummax(jnp.where(starts, places, 0))]
    numbers = jnp.zeros_like(places).at[order].set(first, unique_indices=True)
    none = jnp.zeros_like(places)
    own, others = numbers[:total], numbers[total:]
    return numbers, (none.at[own].add(1)[own], none.at[others].add(1)[own])


def in_order(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An order of the rows in which equal numbers are neighbours, and its inverse; (N,) each.

    It is the rows' own order where all numbers differ.
    """
    order = jnp.argsort(numbers, stable=True)
    inverse = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)), unique_indices=True)
    return order, inverse


def _first_places(ordered: jax.Array, numbers: jax.Array) -> jax.Array:
    """Where each number stands first among ordered ones, or some place where it does not."""
    return jnp.minimum(jnp.searchsorted(ordered, numbers), len(ordered) - 1)
