"""Sweeps over the scores of the pairs in InfoNCE's softmaxes, of one device or round a ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmicl_core.related import SoftmaxBlock
from fmicl_jax.ops import product
from fmicl_jax.plan import Rows
from fmicl_jax.ring import go_round
from fmicl_jax.softmaxes import Softmax
from fmicl_jax.tiles import (
    TileNumbers,
    counted_pairs,
    over_meeting_tiles,
    split_tiles,
    tile_places,
)


class Side(NamedTuple):
    """The rows on one side of a block, in tiles; what of a device's rows visits other devices.

    Args:
        tiles: features of the rows.
        numbers: numbers of the rows, or None where they have no ids.
        softmax: softmaxes of the rows; None before they are known, and for rows that have none.
    """

    tiles: jax.Array
    numbers: TileNumbers | None
    softmax: Softmax | None


def sides_of(
    rows: Rows, numbers: dict[str, jax.Array] | None, tile: int, softmaxes: dict[str, Softmax]
) -> dict[str, Side]:
    """The rows by name, in tiles."""
    marks = {name: TileNumbers.of(of, tile) for name, of in (numbers or {}).items()}
    return {
        name: Side(split_tiles(side, tile), marks.get(name), softmaxes.get(name))
        for name, side in rows.items()
    }


#: As for `fmicl_jax.ring.go_round`.
Once = jax.Array | bool


class Pass(NamedTuple):
    """One of the two passes over all scores.

    Args:
        step_of: function of the left, of the right `Side` (the same one in a symmetric sweep), of
            whether the right rows are anchors, too, and of `once`: whether anything is added for
            them here. It gives step(carry, i, j, scores) for a tile; carry is what was summed up
            for the left and for the right rows, the latter None in a symmetric sweep.
        nothing: function of a name of rows that gives the sums before a tile is added.
        merged: function that adds two of these sums up.
        each: whether rows that are no anchors have sums, too.
    """

    step_of: Callable[[Side, Side, bool, Once], Callable[..., Any]]
    nothing: Callable[[str], Any]
    merged: Callable[[Any, Any], Any]
    each: bool


def add_block(
    softmax: SoftmaxBlock,
    sides: dict[str, Side],
    sizes: dict[str, int],
    sums: dict[str, Any],
    how: Pass,
    axis_name: str | None,
) -> dict[str, Any]:
    """The sums by name with those of a block's pairs added.

    Args:
        softmax: block of pairs.
        sides: rows by name.
        sizes: number of these rows by name, those that fill a tile not counted.
        sums: sums by name so far.
        how: pass.
        axis_name: axis of the devices whose rows, a bank's excepted, make up the block, or None.
            Rows on the right go round these devices, and with them their sums.
    """
    block, both, which = softmax
    left, right = sides[block.left], sides[block.right]
    # Guests take along what they need.
    right = right._replace(numbers=None if which == "every" else right.numbers,
                           softmax=right.softmax if both else None)  # fmt: skip

    def swept(carry: Any, right: Side, symmetric: bool, skips_diagonal: bool, once: Once) -> Any:
        scores = Scores(left, right, (sizes[block.left], sizes[block.right]), which,
                        symmetric, skips_diagonal)  # fmt: skip
        return scores.sweep(how.step_of(left, right, both, once), carry)

    on_right = None
    if not block.symmetric and (both or how.each):
        on_right = sums[block.right]
    sides_alike = block.symmetric, block.skips_diagonal
    on_left, on_right = swept((sums[block.left], on_right), right, *sides_alike, True)
    if axis_name is not None and block.skips_diagonal:  # every device has the whole bank

        def visit(own: Any, guests: Side, made: Any, once: Once) -> Any:
            return swept((own, made), guests, False, False, once)

        made = how.nothing(block.right) if block.symmetric else on_right
        around: dict[str, Any] = {"axis_name": axis_name, "symmetric": block.symmetric}
        on_left, made = go_round(visit, on_left, right, made, **around)
        if block.symmetric:
            on_left = how.merged(on_left, made)
        else:
            on_right = made
    return sums | {block.left: on_left} | ({} if on_right is None else {block.right: on_right})


class Scores(NamedTuple):
    """The scores of a block's pairs in tiles; those of pairs that do not count are -inf.

    Args:
        left: rows on the left.
        right: rows on the right.
        sizes: numbers of rows on both sides, those that fill a tile not counted.
        which: pairs that count, as for `SoftmaxBlock`.
        symmetric: whether both sides are the same; each pair is then there once, i < j.
        skips_diagonal: whether pairs with i = j are left out.
    """

    left: Side
    right: Side
    sizes: tuple[int, int]
    which: str
    symmetric: bool
    skips_diagonal: bool

    def sweep(self, step: Callable[..., Any], start: Any) -> Any:
        """What step(carry, i, j, scores) makes of `start` over all tiles."""
        marks = self.marks
        if self.which == "equal" and marks is not None:

            def visit(carry: Any, i: jax.Array, j: jax.Array) -> Any:
                return step(carry, i, j, self.at_edge(self.of(i, j), i, j))

            return over_meeting_tiles(marks, self.symmetric, visit, start)

        def visit_place(carry: Any, place: Any) -> tuple[Any, None]:
            i, j, edge = place
            if marks is not None:
                edge |= marks[0].meets(i, marks[1], j)
            scores = self.of(i, j)
            scores = jax.lax.cond(edge, self.at_edge, lambda s, i, j: s, scores, i, j)
            return step(carry, i, j, scores), None

        shapes = self.left.tiles.shape[:2], self.right.tiles.shape[:2]
        places = tile_places(*shapes, *self.sizes, self.symmetric, self.skips_diagonal)
        return jax.lax.scan(visit_place, start, places)[0]

    @property
    def marks(self) -> tuple[TileNumbers, TileNumbers] | None:
        """Numbers of both sides, where pairs count by them."""
        left, right = self.left.numbers, self.right.numbers
        if self.which == "every" or left is None or right is None:
            return None
        return left, right

    def of(self, i: jax.Array, j: jax.Array) -> jax.Array:
        """Scores of all pairs of a tile."""
        return product(self.left.tiles[i], self.right.tiles[j].T)

    def at_edge(self, s: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """The scores of a tile some of whose pairs do not count."""
        marks = self.marks
        keep = counted_pairs(i, j, s.shape, *self.sizes, self.symmetric, self.skips_diagonal)
        if marks is not None:
            equal = marks[0].equal(i, marks[1], j)
            keep &= equal if self.which == "equal" else ~equal
        return jnp.where(keep, s, -jnp.inf)
