"""Which tiles `python -m benchmarks.gpu --tune` tries, and what it says and advises at the end."""

import csv
from pathlib import Path

import pytest

from benchmarks.gpu.cases import Check, Speed, Task, Tune
from benchmarks.gpu.report import failed, named, next_steps
from benchmarks.gpu.tuning import (
    MOST,
    TUNE_FORMS,
    TUNE_STAGES,
    candidates,
    fits,
    literal,
    needs_of,
    present_tiles,
    ranked,
    show_ranked,
    steps,
    tune_plan,
    write_winners,
)
from fmicl_core.fused import Tiles


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("d", [128, 512])
def test_candidates_are_near_the_present_tiles_first_and_may_fit(d, atomic):
    present = present_tiles(d, atomic)
    found = list(candidates(d, atomic, MOST[False]))
    assert fits(present, d, atomic)
    apart = [distance for distance, _ in found]
    assert apart == sorted(apart)
    assert set(apart) <= set(range(1, len(TUNE_STAGES)))
    assert len({tiles for _, tiles in found}) == len(found) <= MOST[False]
    assert present not in {tiles for _, tiles in found}
    for distance, tiles in found:
        assert steps(tiles, present) == distance
        assert fits(tiles, d, atomic)
    changed = {name for _, t in found for name in Tiles._fields
               if getattr(t, name) != getattr(present, name)}  # fmt: skip
    assert changed >= set(Tiles._fields) - {"registers"}


def test_what_a_program_holds_needs_room():
    small = Tiles(64, 64, 128, 8, 2)
    assert needs_of(small, 128, atomic=False).memory == 2 * (64 * 128 + 64 * 64 + 2 * 64 * 128)
    assert needs_of(small, 128, False).registers == (64 * 128 + 64 * 64) // 256
    assert needs_of(small, 128, True).registers == (2 * 64 * 128 + 64 * 64) // 256
    assert needs_of(small, 512, False) == (2 * 2 * 128 * 128, 64 * 64 // 256)  # scores alone
    assert not fits(small._replace(stages=16), 128, False)
    assert not fits(small._replace(warps=1), 128, False)
    assert not fits(Tiles(256, 256, 128, 16, 1), 128, True)  # 512 threads share the registers


@pytest.mark.parametrize("library", list(TUNE_FORMS))
@pytest.mark.parametrize("small", [False, True])
def test_the_present_tiles_come_first_and_shapes_by_turns(library, small):
    tasks = tune_plan(library, small)
    shapes = 4 * len(TUNE_FORMS[library])
    assert [task.stage for task in tasks[:shapes]] == [1] * shapes
    assert all(not task.case.tiles for task in tasks[:shapes])
    assert all(task.case.tiles for task in tasks[shapes:])
    assert len({task.case[:5] for task in tasks[shapes : 2 * shapes]}) == shapes
    assert len({task.key for task in tasks}) == len(tasks)
    assert {(task.case.d, task.case.negatives) for task in tasks} == {
        (d, negatives) for d in ((32, 64) if small else (128, 512))
        for negatives in ("anchor", "cross")
    }  # fmt: skip


SHAPE = Tune("fused", 65536, 128, "bfloat16", "anchor")


def row(ms, tiles="", **more):
    numbers = dict(zip(Tiles._fields, map(int, tiles.split()), strict=False))
    measured = {"ms": ms, "tiles": tiles or "128 64 128 8 3", "value": -2.0, "gradient": 0.5}
    return SHAPE._replace(**numbers)._asdict() | measured | more


def test_the_fastest_tiles_with_the_same_loss_win(tmp_path, capsys):
    rows = [
        row(4.0),
        row(2.0, "64 64 128 8 3"),
        row(3.0, "64 64 128 4 3"),
        row(0.1, "64 64 128 4 2", value=-2.1),
        row(0.2, "64 64 128 4 1", gradient=float("nan")),
        SHAPE._replace(rows=256)._asdict() | {"error": "OutOfResources"},
    ]
    (found,) = ranked([{name: str(value) for name, value in r.items()} for r in rows])
    assert [float(r["ms"]) for r in found.best] == [2.0, 3.0, 4.0]
    assert (found.rest, found.gains) == (3, True)
    assert literal(found.best[0]) == "Tiles(64, 64, 128, 8, 3)"
    show_ranked([found], most=2)
    first, *best, forms = capsys.readouterr().out.splitlines()
    assert "Tiles(128, 64, 128, 8, 3), the present tiles, take 4 ms" in first
    assert [line.split(" times")[0].strip() for line in best] == ["2.00", "1.33"]
    assert forms.endswith("the best of each form: 2 ms fused")
    path = tmp_path / "tiles.csv"
    write_winners(path, [found], "A")
    write_winners(path, [found], "B")
    write_winners(path, ranked(rows[:1]), "A")
    with open(path, newline="") as file:
        written = {
            r["device"]: (r["tiles"], r["ms"], r["present_ms"]) for r in csv.DictReader(file)
        }
    assert written == {
        "A": ("Tiles(128, 64, 128, 8, 3)", "4.0", "4.0"),
        "B": ("Tiles(64, 64, 128, 8, 3)", "2.0", "4.0"),
    }


def test_without_a_time_of_the_present_tiles_there_is_nothing_to_compare():
    assert ranked([row(2.0, "64 64 128 8 3")]) == []
    assert ranked([SHAPE._asdict() | {"error": "took too long"}, row(2.0, "64 64 128 8 3")]) == []
    (found,) = ranked([row(4.0), row(3.99, "64 64 128 8 3")])
    assert not found.gains


def test_only_the_present_tiles_have_to_fit():
    assert failed(Task(1, "torch", SHAPE), {"error": "out of resource"})
    assert not failed(Task(2, "torch", SHAPE._replace(rows=64)), {"error": "out of resource"})


def test_a_case_is_named_by_all_that_sets_it_apart():
    check = Check("fused", "js", "gaussian", "all", True, "tf32", 7, 5, False, "ids", "learned")
    assert named(Task(1, "torch", check)) == (
        "js fused all gaussian ids learned bank raw N=7 D=5 tf32"
    )  # fmt: skip
    speed = Speed("siglip", "tiled", 7, 5, "tf32", "cross", 9, "classes", "learned")
    assert named(Task(1, "torch", speed)) == (
        "siglip tiled cross classes learned bank 9 N=7 D=5 tf32"
    )  # fmt: skip


def advice(wrong=0, lost=False, left_out=0, written=("a.csv",), **more):
    how = {"tuned": False, "gains": False, "small": False} | more
    return " ".join(
        next_steps(wrong, lost, left_out, list(map(Path, written)), Path(".gpu"), **how)
    )


def test_the_end_says_what_to_do_next():
    assert advice() == "Commit a.csv. All is measured; `python -m benchmarks.gpu --tune` looks for better tiles."  # fmt: skip # noqa: E501
    assert "Run the same command again: it goes on with the 7 left out." in advice(left_out=7)
    assert "Mend the 2 cases marked FAILED" in advice(wrong=2)
    assert "does not start" in advice(lost=True)
    assert "All is measured" not in advice(wrong=1) + advice(lost=True) + advice(left_out=1)
    assert "fmicl_core/fused.py" in advice(tuned=True, gains=True)
    assert "leave the present ones" in advice(tuned=True)
    assert "nothing to commit" in advice(small=True)
    assert "Commit" not in advice(written=()) + advice(small=True)
