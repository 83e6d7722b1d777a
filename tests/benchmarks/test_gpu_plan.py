"""What `python -m benchmarks.gpu` does, in which order, and what it leaves out when time is up."""

from itertools import product

import pytest

from benchmarks.gpu.cases import FORMS, NAMED, Speed, Task, Tune
from benchmarks.gpu.clock import MARGIN, UNTIMED, Clock, Memory
from benchmarks.gpu.crew import Done
from benchmarks.gpu.plan import (
    CHECK_ROWS,
    DENSE_ROWS,
    DTYPES,
    STAGES,
    all_checks,
    covering,
    plan,
    sizes,
    suitable,
)
from benchmarks.gpu.schedule import Schedule
from benchmarks.gpu.tuning import tune_plan
from fmicl_core import SIMILARITIES
from fmicl_core.pairs import NEGATIVES

LIBRARIES = tuple(FORMS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_covering_set_meets_all_that_it_promises(library):
    cases = covering(library)
    routines = [c for c in cases if c.form.startswith("fused")]
    assert {c.loss for c in routines} == {*suitable(), "siglip"}
    assert {c.similarity for c in routines} == {*SIMILARITIES, "-"}
    assert {c.loss for c in cases} == {*suitable(), *NAMED}
    assert {c.pairs for c in routines} == {"rows", "ids", "classes"}
    assert {c.loss for c in cases if c.scalars == "learned"} >= {"js", "siglip", "clip"}
    assert any(c.bank and c.pairs == "ids" for c in routines)
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
    assert len(cases) == len(set(cases)) <= {"torch": 52, "jax": 29}[library]
    for case in cases:
        assert case.loss in NAMED or case.objective().normalize == case.normalize


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
    second = [task.case for task in tasks if task.stage == 2]
    assert len(second) <= 26  # what five minutes have room for
    assert [(case.loss, case.pairs) for case in second[:8]] == [
        *[("js", "rows")] * 4, *[("siglip", "rows")] * 2, *[("js", "ids")] * 2
    ]  # fmt: skip
    assert {case.form for case in second[:8]} == {"fused"}
    assert {case.form for case in second} == {
        "fused", "products", "compiled_chunks", "compiled_dense", "tiled"
    }  # fmt: skip
    assert {case.loss for case in second} == {"js", "siglip", "clip", "any"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_loss_has_a_baseline_at_its_size_and_no_form_needs_too_much_memory(library):
    cases = [case for _, case in sizes(library)]
    plain = {case._replace(form="") for case in cases if case.form.startswith("compiled")}
    fused = [case for case in cases if case.form == "fused" and case.n < 1 << 20]
    assert all(case._replace(form="") in plain for case in fused)
    for case in cases:
        if "dense" in case.form:
            assert case.n * (case.bank or case.n) <= DENSE_ROWS**2
    assert {case.scalars for case in cases if case.loss in ("siglip", "clip")} == {"learned"}
    assert {case.bank for case in cases} == {0, 65536}
    peers = [case for case in cases if case.d == 1024 and case.loss == "siglip"]
    assert {case.n for case in peers} == {512, 1024, 2048, 4096, 8192, 65536}


def test_a_bank_has_no_gradient_and_half_of_a_symmetric_block_is_enough():
    flops = {n: Speed("js", "fused", 100, 10, "float32", n).flops for n in ("anchor", "cross")}
    assert flops == {"anchor": 3e5, "cross": 6e5}
    assert Speed("js", "fused", 10, 10, "float32", "cross", bank=1000).flops == 4e5


def test_the_clock_counts_from_the_start_and_keeps_a_margin():
    assert Clock(5.0, start=100.0, now=lambda: 160.0).left() == 240.0 - MARGIN


SIZE = Speed("js", "fused", 8192, 128, "bfloat16", "anchor")


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


def test_the_same_loss_says_more_of_a_time_than_another_one():
    memory = Memory("cuda")
    siglip = SIZE._replace(loss="siglip", negatives="cross")
    memory.add(Task(2, "torch", SIZE), row_of(1.0, 0.0))
    guess = memory.expected(Task(2, "torch", siglip))
    assert guess == pytest.approx(1.0 + 1.2 * 2 * 1e-3 * (10 + UNTIMED))
    memory.add(Task(2, "torch", siglip), row_of(5.0, 0.0, siglip))
    got = memory.expected(Task(2, "torch", siglip))
    assert got == pytest.approx(1.0 + 1.2 * 5e-3 * (10 + UNTIMED))


def test_other_forms_libraries_and_failures_say_nothing_of_a_time():
    memory = Memory("cuda")
    task = Task(2, "torch", SIZE)
    first = memory.expected(task)
    memory.add(Task(2, "jax", SIZE), row_of(1e6, 0.0))
    memory.add(Task(2, "torch", SIZE._replace(form="tiled")), row_of(1e6, 0.0))
    memory.add(task, {"error": "took too long"})
    assert memory.expected(task) == first


ALONE = {"speed", "tune"}


class Workers:
    """A crew without processes, in the time of a clock that it turns itself.

    Args:
        costs: seconds of a job, by library.
        each: workers of each library.
        lost: libraries that do not start.
        refused: cases that cannot be compiled.
    """

    def __init__(self, costs, each=2, lost=(), refused=()):
        self.refused = refused
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
        timed = {"ms": 1.0} if job.does in ALONE else {"passed": 1}
        if job.does == "warm" and job.task.case in self.refused:
            timed = {"error": "OutOfResources"}
        return [Done(job, timed | {"seconds": self.costs[worker.library]})]


class Worker:
    def __init__(self, crew, library):
        self.crew, self.library = crew, library

    def give(self, job, limit):
        alone = not self.crew.running
        assert alone or not ALONE & {job.does, *(other.does for other in self.crew.busy())}
        self.crew.idle[self.library].remove(self)
        self.crew.begun.append((self.crew.time, job))
        end = self.crew.time + min(limit, self.crew.costs[self.library])
        self.crew.running.append((end, self, job))


def rehearse(minutes, costs, plan=plan, **options):
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


CLOCKS = [(minutes, plan) for minutes in (0.2, 1, 5, 15)]
CLOCKS += [(minutes, tune_plan) for minutes in (0.2, 3)]


@pytest.mark.parametrize(("minutes", "plan"), CLOCKS)
def test_it_ends_in_time_and_every_case_is_either_measured_or_left_out(minutes, plan):
    schedule, crew, recorded, tasks = rehearse(minutes, {"torch": 3.0, "jax": 5.0}, plan)
    assert crew.time <= 60 * minutes
    listed = [task for _, task in recorded] + [entry.task for entry in schedule.left_out]
    assert sorted(map(str, listed)) == sorted(map(str, tasks))
    assert schedule.left_out
    assert all(entry.why for entry in schedule.left_out)


def test_with_time_enough_nothing_is_left_out():
    costs = {"torch": 3.0, "jax": 5.0}
    schedule, _, recorded, tasks = rehearse(1000, costs, lambda library: plan(library)[:300])
    assert not schedule.left_out
    assert {task for _, task in recorded} == set(tasks)


def test_tiles_that_cannot_be_compiled_are_recorded_and_not_timed():
    refused = {task.case for task in tune_plan("torch") if task.case.tiles and task.case.stages > 2}
    schedule, crew, recorded, tasks = rehearse(100, {"torch": 3.0}, tune_plan, refused=refused)
    assert [task for _, task in recorded] != tasks
    assert sorted(map(str, tasks)) == sorted(str(task) for _, task in recorded)
    timed = {job.task.case for _, job in crew.begun if job.does == "tune"}
    assert timed == {task.case for task in tasks} - refused
    assert not schedule.left_out


def test_the_present_tiles_of_all_shapes_are_timed_before_any_other():
    _, _, recorded, _ = rehearse(0.5, {"torch": 1.0}, tune_plan, each=8)
    cases = [task.case for _, task in recorded]
    assert not any(case.tiles for case in cases[:8])
    assert all(isinstance(case, Tune) and case.tiles for case in cases[8:])


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
