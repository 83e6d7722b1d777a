"""Other tiles for the fused routines: which ones to try, in which order, and which of them won."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.cases import Task, Tune
from benchmarks.gpu.table import Table
from benchmarks.timing import Row
from fmicl_core.fused import Tiles, padded_width, tiles_for, weight_tiles, writes_weights

#: What is done in turn with --tune; each step doubles or halves one number of the tiles.
TUNE_STAGES = {
    1: "the present tiles",
    2: "tiles one step from them",
    3: "tiles two steps from them",
    4: "tiles three steps from them",
}
#: The forms of each library whose tiles may differ: with atomics, and with scores computed twice.
TUNE_FORMS = {"torch": ("fused_deterministic", "fused"), "jax": ("fused",)}
#: Rows and widths of the two headline shapes, and those of a rehearsal.
TUNE_SHAPES = {False: ((65536, 128), (65536, 512)), True: ((128, 32), (128, 64))}
#: Values that are tried.
ROWS, COLUMNS, WARPS, STAGES = (32, 64, 128, 256), (32, 64, 128, 256), (4, 8, 16), (1, 2, 3, 4)
#: Most candidates of a shape, and of one in a rehearsal.
MOST = {False: 32, True: 2}
#: Bytes of shared memory that a program on an H100 may use, and its 32-bit registers; those of a
#: thread that its sums may take, beside which it needs about sixty. Ten tiles compiled for sm_90
#: took 0.75 to 1.4 times the estimated memory, and spilled from about 130 registers on.
MEMORY, REGISTERS, OF_A_THREAD = 227 * 1024, 65536, 192
#: What a change of tiles has to gain at least to be worth it.
GAIN = 1.03
#: How far the loss and its gradient may be from those with the present tiles.
SAME = 1e-2
#: What has a winner of its own.
SHAPE = ("form", "n", "d", "dtype", "negatives")


class Needs(NamedTuple):
    """What a program needs at least: bytes of shared memory, and 32-bit registers of a thread."""

    memory: int
    registers: int


def needs_of(tiles: Tiles, d: int, atomic: bool) -> Needs:
    """An estimate for features of 16 bits, by which the hopeless tiles are not even compiled.

    Shared memory holds the tile of the rows, the weights on their way to the second product, and
    for each stage a tile of the columns, or of both sides where the width is cut into pieces.
    Registers hold the gradient of the rows, the scores, which are float32, and the update of the
    columns' gradient where it is added by atomics. Where weights are written down, there are a tile
    of both sides for each stage and the scores alone.
    """
    rows, columns, width, warps, stages = tiles[:5]
    if writes_weights(d, "bfloat16"):
        return Needs(2 * stages * (rows + columns) * width, rows * columns // (32 * warps))
    pieces = -(-padded_width(d) // width)
    stage = columns + (rows if pieces > 1 else 0)
    entries = rows * width + rows * columns + stages * stage * width
    update = columns * width if atomic else 0
    held = rows * width + rows * columns + update
    return Needs(2 * entries, held // (32 * warps))


def present_tiles(d: int, atomic: bool) -> Tiles:
    """The tiles that the library takes for features of bfloat16; arguments as for `candidates`."""
    if writes_weights(d, "bfloat16"):
        return weight_tiles(MEMORY)
    return tiles_for(d, "bfloat16", False, MEMORY, atomic)


def candidates(d: int, atomic: bool, most: int) -> Iterator[tuple[int, Tiles]]:
    """Tiles to try beside the present ones, the nearest first, with the steps to them.

    Args:
        d: width of the features.
        atomic: whether a program also holds the update of the columns' gradient.
        most: number of them.
    """
    present = present_tiles(d, atomic)
    widths = [w for w in (64, 128, 256, 512) if w <= padded_width(d)] or [present.width]
    every = (
        Tiles(*numbers, None if numbers[0] * numbers[1] > 2048 * numbers[3] else present.registers)
        for numbers in product(ROWS, COLUMNS, widths, WARPS, STAGES)
    )
    found = [(steps(tiles, present), tiles) for tiles in every if tiles != present]
    found = [entry for entry in found if entry[0] < len(TUNE_STAGES) and fits(entry[1], d, atomic)]
    # As near as each other: those with larger tiles have fewer loads and additions a pair.
    found.sort(key=lambda entry: (entry[0], -entry[1].rows * entry[1].columns * entry[1].width))
    yield from found[:most]


def steps(one: Tiles, other: Tiles) -> int:
    """How often a number has to be doubled, halved, or a stage added, from one to the other."""
    doublings = sum(
        abs(a.bit_length() - b.bit_length()) for a, b in zip(one[:4], other[:4], strict=True)
    )
    return doublings + abs(one.stages - other.stages)


def fits(tiles: Tiles, d: int, atomic: bool) -> bool:
    """Whether a program of these tiles may fit, as far as the estimate tells."""
    needs, threads = needs_of(tiles, d, atomic), 32 * tiles.warps
    most = min(OF_A_THREAD, REGISTERS // threads)
    return needs.memory <= MEMORY and needs.registers <= most


@contextmanager
def replaced_tiles(
    module: Any, changed: dict[str, int | None], taken: list[Tiles] | None = None
) -> Iterator[list[Tiles]]:
    """Other tiles in place of those that a module of a backend takes; yields those it took.

    Args:
        module: module that has imported `tiles_for` or `weight_tiles`, or both.
        changed: numbers of the tiles that differ, by name.
        taken: list to add to; None begins one.
    """
    taken = [] if taken is None else taken
    names = [name for name in ("tiles_for", "weight_tiles") if hasattr(module, name)]
    present = {name: getattr(module, name) for name in names}

    def chosen(name: str, *given: Any, **named: Any) -> Tiles:
        taken.append(present[name](*given, **named)._replace(**changed))
        return taken[-1]

    for name in names:
        setattr(module, name, partial(chosen, name))
    try:
        yield taken
    finally:
        for name in names:
            setattr(module, name, present[name])


def tune_plan(library: str, small: bool = False) -> list[Task]:
    """All tiles to be tried with a library, by `TUNE_STAGES`.

    Args:
        library: "torch" or "jax".
        small: whether sizes are such that a CPU can interpret them.
    """
    tasks: list[tuple[int, int, Tune]] = []
    for (n, d), negatives, form in product(
        TUNE_SHAPES[small], ("anchor", "cross"), TUNE_FORMS[library]
    ):
        shape = Tune(form, n, d, "bfloat16", negatives)
        atomic = library == "torch" and form == "fused"
        others = list(candidates(d, atomic, MOST[small]))
        tasks.append((1, 0, shape))
        tasks += [(1 + apart, i, shape._replace(**tiles._asdict() | {"registers": tiles[5] or 0}))
                  for i, (apart, tiles) in enumerate(others)]  # fmt: skip
    # Shapes by turns, so that where time runs out each has had its nearest tiles.
    return [Task(stage, library, case) for stage, _, case in sorted(tasks, key=lambda t: t[:2])]


class Ranked(NamedTuple):
    """A shape with the tiles that were measured there and leave the loss as it is.

    Args:
        shape: values of `SHAPE`.
        present: row with the present tiles.
        best: rows from the fastest on.
        rest: number of tiles that did not fit, or gave another loss.
    """

    shape: tuple[str, ...]
    present: Row
    best: list[Row]
    rest: int

    @property
    def gains(self) -> bool:
        """Whether other tiles are worth a change."""
        return float(self.present["ms"]) >= GAIN * float(self.best[0]["ms"])


def ranked(rows: Iterable[Row]) -> list[Ranked]:
    """The measured tiles of each shape that has a time with the present ones."""
    by_shape: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_shape.setdefault(tuple(str(row[name]) for name in SHAPE), []).append(row)
    found = []
    for shape, some in by_shape.items():
        present = next((r for r in some if str(r["rows"]) == "0" and not r.get("error")), None)
        if present is None:
            continue
        right = [row for row in some if not row.get("error") and _same(row, present)]
        best = sorted(right, key=lambda row: float(row["ms"]))
        found.append(Ranked(shape, present, best, len(some) - len(right)))
    return found


def _same(row: Row, present: Row) -> bool:
    """Whether the loss and its gradient are those with the present tiles."""
    pairs = ((float(row[name]), float(present[name])) for name in ("value", "gradient"))
    return all(abs(a - b) <= SAME * abs(b) for a, b in pairs)  # not so where there is a NaN


def show_ranked(found: list[Ranked], most: int = 5) -> None:
    """Print the best tiles of each shape, beside the present ones; then the best form of each."""
    fastest: dict[tuple[str, ...], list[str]] = {}
    for (form, *size), present, best, rest in found:
        n, d, dtype, negatives = size
        print(f"js {form} {negatives} N={n} D={d} {dtype}: {literal(present)}, the present tiles,"
              f" take {float(present['ms']):.4g} ms ({len(best)} measured, {rest} do not fit or are"
              f" wrong)")  # fmt: skip
        for row in best[:most]:
            factor = float(present["ms"]) / float(row["ms"])
            print(f"    {factor:5.2f} times as fast  {float(row['ms']):8.4g} ms  {literal(row)}")
        fastest.setdefault(tuple(size), []).append(f"{float(best[0]['ms']):.4g} ms {form}")
    for (n, d, dtype, negatives), forms in fastest.items():
        print(f"js {negatives} N={n} D={d} {dtype}, the best of each form: {', '.join(forms)}")


def literal(row: Row) -> str:
    """The tiles of a row, as they stand in fmicl_core/fused.py; "-" where there are none."""
    tiles = str(row["tiles"]).split()
    return "-" if tiles == ["-"] else f"Tiles({', '.join(tiles)})"


def write_winners(path: Path, found: list[Ranked], device: str) -> None:
    """The fastest tiles of each shape, in place of those that the file has of it.

    Args:
        path: of the CSV file.
        found: tiles of each shape.
        device: name of the device that they were measured on.
    """
    names = ("device", *SHAPE)
    rows = {(device, *one.shape): {
        **dict(zip(names, (device, *one.shape), strict=True)),
        "tiles": literal(one.best[0]), "ms": one.best[0]["ms"],
        "present_tiles": literal(one.present), "present_ms": one.present["ms"],
    } for one in found}  # fmt: skip
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            before = list(csv.DictReader(file))
        rows = {tuple(row.get(name, "") for name in names): row for row in before} | rows
        path.unlink()
    table = Table(path, (*names, "tiles", "ms", "present_tiles", "present_ms"))
    for row in rows.values():
        table.add(row)
    table.close()
