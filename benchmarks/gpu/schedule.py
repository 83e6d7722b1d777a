"""What is done next: checks and compilation side by side, what is timed alone, until time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, NamedTuple

from benchmarks.gpu.cases import Check, Task, Tune
from benchmarks.gpu.clock import Clock, Memory
from benchmarks.gpu.crew import Done, Job
from benchmarks.timing import Row

#: Share of the time left that checks and compilation may take before something is timed again.
TOGETHER = 0.4
#: Seconds that have to be left for compiling ahead of a timing.
WARM = 10.0
#: Rows from which on what compiles a dense form alone, since it needs the memory.
WARM_DENSE_ROWS = 16384


class LeftOut(NamedTuple):
    """A task that was not done, and why."""

    task: Task
    why: str


class Schedule:
    """Does tasks by a crew, stage after stage, and keeps what was left out.

    Args:
        crew: does the jobs; see `benchmarks.gpu.crew.Crew`.
        clock: says how much time is left.
        memory: says how long a task will take.
        record: takes each task that was done, with its row, at once.
    """

    def __init__(
        self, crew: Any, clock: Clock, memory: Memory, record: Callable[[Task, Row], None]
    ) -> None:
        self.crew, self.clock, self.memory, self.record = crew, clock, memory, record
        self.left_out: list[LeftOut] = []
        self._warmed: set[tuple[Any, ...]] = set()
        self._refused: set[Task] = set()

    def run(self, tasks: Iterable[Task]) -> None:
        """All tasks that the time allows, in the order of their stages."""
        together: list[Job] = []
        for _, stage in groupby(sorted(tasks, key=lambda task: task.stage), lambda t: t.stage):
            some = list(stage)
            together += [Job(task, "check") for task in some if isinstance(task.case, Check)]
            if speeds := [task for task in some if not isinstance(task.case, Check)]:
                until = self.clock.left() * (1.0 - TOGETHER)
                together = self._together(together + self._warms(speeds), until)
                together = [job for job in together if job.does == "check"]
                self._alone(speeds)
        self._over(self._together(together, 0.0))

    def _warms(self, speeds: list[Task]) -> list[Job]:
        """What is to be compiled before the speeds, each thing once."""
        jobs = []
        for task in speeds:
            if (what := compiled_of(task)) and what not in self._warmed:
                self._warmed.add(what)
                jobs.append(Job(task, "warm"))
        return jobs

    def _together(self, jobs: list[Job], until: float) -> list[Job]:
        """Do jobs side by side on all workers of their libraries.

        Args:
            jobs: in their order.
            until: seconds left at which no other is begun.

        Returns:
            Those not begun.
        """
        waiting = list(jobs)
        while waiting or self.crew.busy():
            if self.clock.left() > until:
                waiting = [job for job in waiting if not self._given(job)]
            elif not self.crew.busy():
                break
            if self.clock.left() <= 0:
                break
            for done in self.crew.wait(min(1.0, self.clock.left())):
                self._note(done)
        return waiting

    def _given(self, job: Job) -> bool:
        """Whether the job needs no more thought: a worker has it, or it is left out."""
        if self._hopeless(job.task, job.does):
            return True
        free = self.crew.free(job.task.library)
        if not free:
            return False
        self._give(free[-1], job)
        return True

    def _hopeless(self, task: Task, does: str) -> bool:
        """Whether the task cannot be done; then it is left out."""
        left, needed = self.clock.left(), WARM if does == "warm" else self.memory.expected(task)
        why = self.crew.lost.get(task.library, "")
        if not why and needed > left:
            why = f"takes about {needed:.0f} s, {max(0.0, left):.0f} s were left"
        if why and does != "warm":
            self.left_out.append(LeftOut(task, why))
        return bool(why)

    def _alone(self, tasks: list[Task]) -> None:
        """Time one task after the other, the libraries in turn by the time they had."""
        waiting = {task.library: [t for t in tasks if t.library == task.library] for task in tasks}
        used = dict.fromkeys(waiting, 0.0)
        while any(waiting.values()):
            library = min((name for name in waiting if waiting[name]), key=used.__getitem__)
            task = waiting[library].pop(0)
            if task in self._refused:
                continue
            start = self.clock.now()
            while not self._hopeless(task, "speed"):
                if free := self.crew.free(library):
                    does = "tune" if isinstance(task.case, Tune) else "speed"
                    self._give(free[0], Job(task, does))
                    break
                for done in self.crew.wait(min(1.0, self.clock.left())):
                    self._note(done)
            while self.crew.busy() and self.clock.left() > 0:
                for done in self.crew.wait(self.clock.left()):
                    self._note(done)
            used[library] += self.clock.now() - start

    def _give(self, worker: Any, job: Job) -> None:
        worker.give(job, self.memory.limit(job.task, job.does))

    def _note(self, done: Done) -> None:
        if done.job.does == "warm":
            # A loss that could not be compiled says so again when it is timed; tiles do not fit.
            if isinstance(done.job.task.case, Tune) and done.row.get("error"):
                self._refused.add(done.job.task)
                self.record(done.job.task, done.row)
            return
        self.memory.add(done.job.task, done.row)
        self.record(done.job.task, done.row)

    def _over(self, waiting: list[Job]) -> None:
        """Leave out what waits or is under way when the time is up."""
        for job in waiting:
            self._hopeless(job.task, job.does)
        under_way = [job.task for job in self.crew.busy() if job.does != "warm"]
        self.left_out += [LeftOut(task, "was under way when time was up") for task in under_way]


def compiled_of(task: Task) -> tuple[Any, ...] | None:
    """What has to be compiled for a task, or None: nothing, or it would need too much memory.

    Inductor and Pallas compile for each size; Triton's routines are the same for all of them. What
    XLA compiles is left to the timing, since it chooses its matrix products by their time.
    """
    case = task.case
    if "dense" in case.form and case.n > WARM_DENSE_ROWS:
        return None
    torch, fused = task.library == "torch", case.form.startswith("fused")
    if isinstance(case, Tune) or (fused and not torch) or (torch and "compiled" in case.form):
        return task.library, *case
    return (task.library, *case._replace(n=0)) if fused else None
