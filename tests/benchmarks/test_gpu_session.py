"""The processes of `python -m benchmarks.gpu`, with a stub for a library: hangs, crashes, kills."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import clock
from benchmarks.gpu.cases import Check, Speed, Task, Tune
from benchmarks.gpu.session import Session

ROOT = Path(__file__).resolve().parents[2]
#: A library whose cases say by their similarity or loss what becomes of them.
STUB = """
import os, time
import numpy as np
from benchmarks.gpu.cases import Result, Tune
from fmicl_core import FMICL, fmicl_reference

def prepare(device):
    print("a library may print")
    return "stub"

broken = []

def in_order():
    return not broken

def result(case, device):
    time.sleep(0.1)
    assert not broken
    {"hang": lambda: time.sleep(1000), "die": lambda: os._exit(3), "fail": lambda: 1 / 0,
     "break": lambda: broken.append(1) or 1 / 0}.get(
        case.dtype, lambda: None)()
    x, y = np.random.default_rng(0).normal(size=(2, case.n, case.d))
    truth = fmicl_reference(x, y, case.objective())
    wrong = 1.5 if case.dtype == "tf32" else 1.0
    return Result((x, y), wrong * truth.loss, (truth.grad_x, truth.grad_y))

def matrix_rate(dtype, device):
    return 1.0

def warm(case, device):
    if isinstance(case, Tune) and case.warps == 16:
        raise MemoryError("out of resource: registers, Required: 300, Hardware limit: 255")

def speed(case, device):
    time.sleep(0.1)
    return {"ms": 100.0, "value": 1.0}

def tune(case, device):
    {256: lambda: time.sleep(1000), 128: lambda: os._exit(3), 64: lambda: 1 / 0}.get(
        case.rows, lambda: None)()
    tiles = " ".join(map(str, case[5:10])) if case.rows else "128 64 128 8 3"
    ms = 2.0 if case.rows else 3.0
    return {"ms": ms / (1 + case.stages), "tiles": tiles, "value": 1.0 + (case.columns == 32),
            "gradient": 1.0}
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The stub's name, importable by the workers."""
    (tmp_path / "stub_library.py").write_text(STUB)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return {"stub": "stub_library"}


def check(dtype, d=4):
    return Task(1, "stub", Check("fused", "kl", "gaussian", "all", False, dtype, 8, d))


def run(stub, tasks, tmp_path, minutes=0.5, **options):
    session = Session(stub, tasks, "cpu", tmp_path / "results", tmp_path / "work", **options)
    return session.run(clock.Clock(minutes, time.monotonic()))


def rows_in(tmp_path, kind="check"):
    path = tmp_path / "results" / f"gpu_{kind}_stub_rehearsal.csv"
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left_out(tmp_path):
    with open(tmp_path / "results" / "gpu_left_out_rehearsal.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_case_that_hangs_dies_or_fails_does_not_keep_the_others(stub, tmp_path, monkeypatch):
    monkeypatch.setitem(clock.LIMIT, "check", 2.0)
    monkeypatch.setattr("benchmarks.gpu.crew.os.cpu_count", lambda: 1)
    tasks = [check(dtype) for dtype in ("hang", "die", "fail", "break", "tf32", "float32")]
    tasks.append(Task(2, "stub", Speed("js", "fused", 8, 4, "float32", "cross")))
    assert run(stub, tasks, tmp_path) == 1
    rows = {row["dtype"]: row for row in rows_in(tmp_path)}
    assert rows["hang"]["error"] == "took too long and was ended"
    assert rows["die"]["error"].startswith("process ended (3)")
    assert rows["fail"]["error"].startswith("ZeroDivisionError")
    assert rows["break"]["error"].startswith("ZeroDivisionError")
    assert rows["tf32"]["passed"] == "0"
    assert rows["float32"]["passed"] == "1"
    assert [row["ms"] for row in rows_in(tmp_path, "speed")] == ["100.0"]
    assert not left_out(tmp_path)


SHAPE = Tune("fused", 8, 4, "bfloat16", "anchor")


def tile(rows, columns=64, warps=8, stages=2, stage=2):
    tiles = SHAPE._replace(rows=rows, columns=columns, width=16, warps=warps, stages=stages)
    return Task(stage, "stub", tiles)


def winners(tmp_path):
    with open(tmp_path / "results" / "gpu_tiles_stub_rehearsal.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_tiles_that_do_not_fit_hang_or_crash_are_no_failure_and_the_best_wins(
    stub, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(clock, "LEAST_LIMIT", 1.0)
    monkeypatch.setattr(clock, "FIRST_OVERHEAD", 0.1)
    monkeypatch.setattr("benchmarks.gpu.crew.os.cpu_count", lambda: 1)
    tasks = [Task(1, "stub", SHAPE), *(tile(rows) for rows in (256, 128, 64)), tile(32, warps=16)]
    tasks += [tile(32, columns=32, stages=4), tile(32), tile(32, stages=3)]  # the first is wrong
    assert run(stub, tasks, tmp_path) == 0
    rows = rows_in(tmp_path, "tune")
    errors = {(row["rows"], row["warps"]): row["error"] for row in rows if row["error"]}
    assert errors["256", "8"] == "took too long and was ended"
    assert errors["128", "8"].startswith("process ended (3)")
    assert errors["64", "8"].startswith("ZeroDivisionError")
    assert errors["32", "16"].startswith("MemoryError: out of resource")
    assert len(rows) == len(tasks)
    (winner,) = winners(tmp_path)
    assert winner["device"] == "stub"
    assert winner["tiles"] == "Tiles(32, 64, 16, 8, 3)"
    assert winner["present_tiles"] == "Tiles(128, 64, 128, 8, 3)"
    assert float(winner["ms"]) == 0.5
    out = capsys.readouterr().out
    assert "6.00 times as fast" in out
    assert "(3 measured, 5 do not fit or are wrong)" in out
    assert "8 of 8 measured cases are right" in out


def test_a_second_call_goes_on_with_the_tiles_and_the_winner_may_change(stub, tmp_path):
    tasks = [Task(1, "stub", SHAPE), tile(32), tile(32, stages=3)]
    assert run(stub, tasks[:2], tmp_path) == 0
    assert [row["tiles"] for row in winners(tmp_path)] == ["Tiles(32, 64, 16, 8, 2)"]
    assert run(stub, tasks, tmp_path) == 0
    assert [row["tiles"] for row in winners(tmp_path)] == ["Tiles(32, 64, 16, 8, 3)"]
    assert len(rows_in(tmp_path, "tune")) == 3


def test_tiles_that_time_was_too_short_for_are_left_out(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_OVERHEAD", 100.0)
    assert run(stub, [Task(1, "stub", SHAPE), tile(32)], tmp_path) == 0
    assert {row["why"][:12] for row in left_out(tmp_path)} == {"takes about "}
    assert [row["case"].split("tiles ")[1] for row in left_out(tmp_path)] == [
        "present", "32 64 16 8 2"
    ]  # fmt: skip
    assert not (tmp_path / "results" / "gpu_tiles_stub_rehearsal.csv").exists()


def test_a_predicted_time_stands_beside_the_measured_one(stub, tmp_path, monkeypatch, capsys):
    asked = []

    def predicted(case, library):
        asked.append((case, library))
        return 50.0 if case.n == 8 else None

    monkeypatch.setattr("benchmarks.gpu.session.predicted_ms", predicted)
    cases = [Speed("siglip", "fused", n, 4, "float32", "cross") for n in (8, 16)]
    assert run(stub, [Task(2, "stub", case) for case in cases], tmp_path) == 0
    assert [row["predicted_ms"] for row in rows_in(tmp_path, "speed")] == ["50.0", ""]
    assert asked == [(case, "stub") for case in cases]
    assert "ms=100  predicted_ms=50" in capsys.readouterr().out


def test_what_has_a_row_is_not_measured_again(stub, tmp_path, capsys):
    tasks = [check("float32", d) for d in (4, 5)]
    assert run(stub, tasks[:1], tmp_path) == 0
    assert run(stub, tasks, tmp_path) == 0
    assert "2 cases, 1 of them measured before" in capsys.readouterr().out
    assert [row["d"] for row in rows_in(tmp_path)] == ["4", "5"]
    assert run(stub, tasks, tmp_path, again=True) == 0
    assert [row["d"] for row in rows_in(tmp_path)] == ["4", "5", "4", "5"]


def test_a_failure_of_an_earlier_call_is_not_forgotten(stub, tmp_path):
    assert run(stub, [check("tf32")], tmp_path) == 1
    assert run(stub, [check("tf32"), check("float32")], tmp_path) == 1


@pytest.mark.slow  # the plan of what fits a time is quick
def test_when_the_time_is_up_it_ends_and_lists_what_is_left(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "FIRST_CHECK", 0.1)
    monkeypatch.setattr(clock, "MARGIN", 0.0)
    start = time.monotonic()
    assert run(stub, [check("float32", d) for d in range(2, 400)], tmp_path, minutes=0.1) == 0
    assert time.monotonic() - start < 6.0 + 2.0
    assert rows_in(tmp_path)
    assert len(rows_in(tmp_path)) + len(left_out(tmp_path)) == 398


def test_a_library_that_cannot_be_imported_is_said_and_fails(tmp_path, capsys):
    assert run({"stub": "no_such_module"}, [check("float32")], tmp_path) == 1
    assert "ModuleNotFoundError" in capsys.readouterr().out
    assert "it does not start" in left_out(tmp_path)[0]["why"]


def test_a_killed_run_keeps_its_rows_and_leaves_no_process(stub, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import pathlib, test_gpu_session as t
tasks = [t.check("float32", d) for d in range(2, 300)]
t.run({stub!r}, tasks, pathlib.Path({str(tmp_path)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    for _ in range(4):  # what there is to do, and three rows
        process.stdout.readline()
    assert workers_of(tmp_path) or not Path("/proc/self/environ").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = rows_in(tmp_path)
    assert len(rows) >= 3
    assert all(row["passed"] == "1" for row in rows)
    until = time.monotonic() + 10
    while workers_of(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not workers_of(tmp_path)


def workers_of(tmp_path):
    """Processes that have this test's folder in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TRITON_CACHE_DIR={tmp_path}" in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found
