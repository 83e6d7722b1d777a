"""What `python -m benchmarks.gpu` does, in which order, and what it leaves out when time is up."""

import csv
from itertools import product

import pytest

from benchmarks.gpu.cases import (
    CHECK_ROWS,
    DTYPES,
    FORMS,
    STAGES,
    Check,
    Speed,
    Task,
    all_checks,
    covering,
    losses,
    plan,
    suitable,
)
from benchmarks.gpu.clock import MARGIN, UNTIMED, Clock, Memory, still_to_do
from benchmarks.gpu.crew import Done
from benchmarks.gpu.schedule import Schedule
from benchmarks.gpu.table import Table, rows_by_key
from fmicl_core import SIMILARITIES
from fmicl_core.pairs import NEGATIVES

LIBRARIES = tuple(FORMS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_covering_set_meets_all_that_it_promises(library):
    cases = covering(library)
    routines = [c for c in cases if c.form.startswith("fused")]
    assert {c.divergence for c in routines} == set(suitable())
    assert {c.similarity for c in routines} == set(SIMILARITIES)
    assert {c.negatives for c in routines if not c.bank} == set(NEGATIVES)
    assert {c.form for c in cases} == set(FORMS[library])
    assert {c.d for c in routines} >= {5, 128, 200, 512, 768, 1024}
    assert {c.n for c in routines} == set(CHECK_ROWS)
    symmetric = {(c.dtype, c.d > 128) for c in routines if c.negatives != "cross" and not c.bank}
    full = {(c.dtype, c.d > 128) for c in routines if c.negatives in ("cross", "all") or c.bank}
    assert symmetric == full == set(product(DTYPES, (False, True)))
    for form in FORMS[library][: 2 if library == "torch" else 1]:
        own = [c for c in cases if c.form == form]
        assert {c.dtype for c in own} == set(DTYPES)
        assert {c.bank for c in own} == {c.normalize for c in own} == {False, True}
    assert any(c.dtype == "bfloat16" and c.d == 512 for c in routines)  # a tile of its own


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_covering_set_is_small_and_its_settings_are_allowed(library):
    cases = covering(library)
    assert len(cases) == len(set(cases)) <= {"torch": 32, "jax": 17}[library]
    for case in cases:
        assert case.objective().normalize == case.normalize


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_plan_has_every_case_once_and_what_tells_most_first(library, small):
    tasks = plan(library, small)
    stages = [task.stage for task in tasks]
    assert stages == sorted(stages)
    assert set(stages) == set(STAGES)
    assert len({task.key for task in tasks}) == len(tasks)
    assert sum(stage == 1 for stage in stages) == len(covering(library))
    if small:
        return
    cases = [task.case for task in tasks]
    assert set(all_checks(library)) <= set(cases)
    second = {task.case for task in tasks if task.stage == 2}
    assert second == {
        Speed(loss, n, 128, "bfloat16", negatives)
        for n in (8192, 65536)
        for loss in losses(library, n)
        for negatives in ("cross", "anchor")
    }
    assert [task.case.loss for task in tasks if task.stage == 2][:4] == ["fused"] * 4
    baselines = {"torch": {"compiled_chunks"}, "jax": {"jit_chunks"}}[library]
    assert {"fused", "products", "products_tiles", "tiled"} | baselines <= set(
        losses(library, 65536)
    )


def test_the_clock_counts_from_the_start_and_keeps_a_margin():
    assert Clock(5.0, start=100.0, now=lambda: 160.0).left() == 240.0 - MARGIN


SIZE = Speed("fused", 8192, 128, "bfloat16", "anchor")


def row_of(ms, overhead, case=SIZE):
    return {"ms": ms, "seconds": 1e-3 * ms * (case.repeats + UNTIMED) + overhead}


def test_work_is_scaled_to_the_size_but_compilation_is_not():
    memory = Memory("cuda")
    memory.add(Task(2, "torch", SIZE), row_of(1.0, 20.0))
    large = SIZE._replace(n=65536)
    work = 64 * 1e-3 * (large.repeats + UNTIMED)
    assert memory.expected(Task(2, "torch", large)) == pytest.approx(1.0 + 1.2 * (20.0 + work))


def test_the_nearest_size_is_the_one_to_go_by():
    memory = Memory("cuda")
    near, far = SIZE._replace(n=32768), SIZE._replace(n=512)
    memory.add(Task(2, "torch", near), row_of(10.0, 0.0, near))
    memory.add(Task(2, "torch", far), row_of(1.0, 0.0, far))
    got = memory.expected(Task(2, "torch", SIZE._replace(n=65536)))
    assert got == pytest.approx(1.0 + 1.2 * 4 * 1e-2 * (3 + UNTIMED))


def test_other_losses_libraries_and_failures_say_nothing_of_a_time():
    memory = Memory("cuda")
    task = Task(2, "torch", SIZE)
    first = memory.expected(task)
    memory.add(Task(2, "jax", SIZE), row_of(1e6, 0.0))
    memory.add(Task(2, "torch", SIZE._replace(loss="tiled")), row_of(1e6, 0.0))
    memory.add(task, {"error": "took too long"})
    assert memory.expected(task) == first


class Workers:
    """A crew without processes, in the time of a clock that it turns itself.

    Args:
        costs: seconds of a job, by library.
        each: workers of each library.
        lost: libraries that do not start.
    """

    def __init__(self, costs, each=2, lost=()):
        self.time, self.costs, self.begun = 0.0, costs, []
        self.lost = dict.fromkeys(lost, "it does not start")
        self.idle = {library: [Worker(self, library) for _ in range(each)] for library in costs}
        self.running = []

    def now(self):
        return self.time

    def free(self, library):
        return list(self.idle[library])

    def busy(self):
        return [job for _, _, job in self.running]

    def wait(self, most):
        if not self.running:
            self.time += most
            return []
        end, worker, job = min(self.running, key=lambda entry: entry[0])
        if end > self.time + most:
            self.time += most
            return []
        self.time = max(self.time, end)
        self.running.remove((end, worker, job))
        self.idle[worker.library].append(worker)
        timed = {"ms": 1.0} if job.does == "speed" else {"passed": 1}
        return [Done(job, timed | {"seconds": self.costs[worker.library]})]


class Worker:
    def __init__(self, crew, library):
        self.crew, self.library = crew, library

    def give(self, job, limit):
        alone = not self.crew.running
        assert alone or all("speed" not in (job.does, other.does) for other in self.crew.busy())
        self.crew.idle[self.library].remove(self)
        self.crew.begun.append((self.crew.time, job))
        end = self.crew.time + min(limit, self.crew.costs[self.library])
        self.crew.running.append((end, self, job))


def rehearse(minutes, costs, **options):
    """Run all plans: the schedule, the crew, and each task recorded with the time; all tasks."""
    crew = Workers(costs, **options)
    recorded = []
    schedule = Schedule(
        crew, Clock(minutes, 0.0, crew.now), Memory("cuda"),
        lambda task, row: recorded.append((crew.time, task)),
    )  # fmt: skip
    tasks = [task for library in costs for task in plan(library)]
    schedule.run(tasks)
    return schedule, crew, recorded, tasks


@pytest.mark.parametrize("minutes", [0.2, 1, 5, 15])
def test_it_ends_in_time_and_every_case_is_either_measured_or_left_out(minutes):
    schedule, crew, recorded, tasks = rehearse(minutes, {"torch": 3.0, "jax": 5.0})
    assert crew.time <= 60 * minutes
    listed = [task for _, task in recorded] + [entry.task for entry in schedule.left_out]
    assert sorted(map(str, listed)) == sorted(map(str, tasks))
    assert schedule.left_out
    assert all(entry.why for entry in schedule.left_out)


def test_with_time_enough_nothing_is_left_out():
    schedule, _, recorded, tasks = rehearse(1000, {"torch": 3.0, "jax": 5.0})
    assert not schedule.left_out
    assert {task for _, task in recorded} == set(tasks)


def test_a_slow_library_does_not_starve_the_other():
    _, _, recorded, _ = rehearse(5, {"torch": 20.0, "jax": 1.0}, each=7)
    timed = [task.library for _, task in recorded if isinstance(task.case, Speed)]
    assert timed.count("torch") >= 2
    assert timed.count("jax") >= 20


def test_many_checks_leave_time_for_speeds():
    _, _, recorded, _ = rehearse(5, {"torch": 40.0, "jax": 4.0}, each=1)
    assert any(isinstance(task.case, Speed) for _, task in recorded)


def test_a_library_that_does_not_start_is_left_out_and_the_other_is_measured():
    schedule, _, recorded, _ = rehearse(2, {"torch": 3.0, "jax": 1.0}, lost=["torch"])
    assert {task.library for _, task in recorded} == {"jax"}
    whys = {entry.why for entry in schedule.left_out if entry.task.library == "torch"}
    assert whys == {"it does not start"}


COLUMNS = (*Check._fields, "error", "device")


def test_rows_are_found_again_by_what_was_measured_and_on_what(tmp_path):
    one, other, third = (Task(1, "torch", case) for case in covering("torch")[:3])
    table = Table(tmp_path / "gpu_check_torch.csv", COLUMNS)
    table.add(one.case._asdict() | {"device": "A"})
    table.add(other.case._asdict() | {"device": "B"})
    known = rows_by_key([one, other, third], tmp_path, False, {"device": "A"})
    assert still_to_do([one, other, third], set(known)) == [other, third]


def test_a_row_is_in_the_file_at_once_and_a_torn_one_is_no_row(tmp_path):
    path = tmp_path / "gpu_check_torch.csv"
    first, second = (Task(1, "torch", case) for case in covering("torch")[:2])
    table = Table(path, COLUMNS)
    table.add(first.case._asdict() | {"device": "A"})
    with open(path, "a", encoding="utf-8") as file:
        file.write("fused,kl,gau")  # killed while writing
    again = Table(path, COLUMNS)
    again.add(second.case._asdict() | {"device": "A"})
    known = rows_by_key([first, second], tmp_path, False, {"device": "A"})
    assert set(known) == {first.key, second.key}


def test_a_file_with_other_columns_is_kept(tmp_path):
    path = tmp_path / "rows.csv"
    Table(path, ("a", "b")).add({"a": 1, "b": 2})
    Table(path, ("a", "c")).add({"a": 3})
    assert path.read_text() == "a,c\n3,\n"
    with open(tmp_path / "rows.before.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": "2"}]
