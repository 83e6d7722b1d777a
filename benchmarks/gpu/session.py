"""One call of the command: what there is to do, with what, and where the rows go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.gpu import START
from benchmarks.gpu.cases import Speed, Task, Tune
from benchmarks.gpu.clock import Clock, Memory, still_to_do
from benchmarks.gpu.crew import Crew
from benchmarks.gpu.model import predicted_ms
from benchmarks.gpu.report import failed, named, next_steps, show_left_out, show_sums, shown
from benchmarks.gpu.schedule import LeftOut, Schedule
from benchmarks.gpu.table import MEASURED, ROOT, Table, code_of, path_of, rows_by_key
from benchmarks.gpu.tuning import Ranked, ranked, show_ranked, write_winners
from benchmarks.machine import machine
from benchmarks.timing import Row

PACKAGES = {"torch": ("torch", "triton", "numpy"), "jax": ("jax", "jaxlib", "numpy")}


class Session:
    """One call: what there is to do, with what, and where the rows go.

    Args:
        modules: modules that do the cases, by library; see `benchmarks.gpu.worker`.
        tasks: tasks of all libraries.
        device: "cuda" or "cpu".
        results: folder of the CSV files.
        work: folder for logs and what is compiled.
        again: whether to measure also what has a row of this device and this code.
    """

    def __init__(
        self, modules: dict[str, str], tasks: list[Task], device: str, results: Path,
        work: Path = ROOT / ".gpu", again: bool = False,
    ) -> None:  # fmt: skip
        self.modules, self.tasks, self.device = modules, tasks, device
        self.results, self.work, self.again = results, work, again
        self.small = device == "cpu"
        self.left_out = self._path("left_out")
        self.rows: dict[Task, Row] = {}
        self._tables: dict[tuple[str, type], Table] = {}
        self._facts: dict[str, Row] = {}

    def _path(self, name: str) -> Path:
        return self.results / f"gpu_{name}{'_rehearsal' if self.small else ''}.csv"

    def run(self, clock: Clock) -> int:
        """Do everything, until the clock has run down; the exit code, 0 if nothing failed."""
        self.left_out.unlink(missing_ok=True)
        each = max(1, min(8, ((os.cpu_count() or 1) - 2) // len(self.modules)))
        crew = Crew(self.modules, self.device, each, self.work)
        memory = Memory(self.device)
        schedule = Schedule(crew, clock, memory, self._record)
        try:
            while set(self.modules) - set(crew.devices) - set(crew.lost) and clock.left() > 0:
                crew.wait(min(1.0, clock.left()))
            schedule.run(self._not_yet_measured(crew, memory))
        finally:
            crew.stop()
            self._end(crew, schedule.left_out)
        return int(any(failed(*entry) for entry in self.rows.items()) or bool(crew.lost))

    def _not_yet_measured(self, crew: Crew, memory: Memory) -> list[Task]:
        """The tasks without a row of this device and this code; the rows of the others."""
        known: dict[tuple[str, ...], dict[str, str]] = {}
        for library in self.modules:
            own = {"device": crew.devices.get(library, ""), "code": code_of(library)}
            self._facts[library] = own | machine(PACKAGES.get(library, ("numpy",)))
            tasks = [task for task in self.tasks if task.library == library]
            if not self.again:
                known |= rows_by_key(tasks, self.results, self.small, own)
        for task in self.tasks:
            if row := known.get(task.key):
                self.rows[task] = dict(row)
                memory.add(task, self.rows[task])
        print(f"{len(self.tasks)} cases, {len(self.rows)} of them measured before", flush=True)
        return still_to_do(self.tasks, set(known))

    def _record(self, task: Task, row: Row) -> None:
        """Write the row of a task into its file, and show it."""
        kind, facts = type(task.case), self._facts[task.library]
        if isinstance(task.case, Speed) and (ms := predicted_ms(task.case, task.library)):
            row = {"predicted_ms": round(ms, 3)} | row
        self.rows[task] = row
        if (task.library, kind) not in self._tables:
            columns = [*kind._fields, *MEASURED[kind], *facts]
            path = path_of(self.results, kind, task.library, self.small)
            self._tables[task.library, kind] = Table(path, columns)
        self._tables[task.library, kind].add(task.case._asdict() | row | facts)
        print(shown(task, row), flush=True)

    def _end(self, crew: Crew, left_out: list[LeftOut]) -> None:
        """Write what was left out, and print the sums, what failed, and what to do next."""
        listed = {entry.task for entry in left_out} | set(self.rows)
        left_out += [LeftOut(t, "was not reached") for t in self.tasks if t not in listed]
        table = Table(self.left_out, ("library", "stage", "case", "why", "device"))
        for task, why in left_out:
            table.add({"library": task.library, "stage": task.stage, "case": named(task),
                       "why": why, "device": crew.devices.get(task.library, "")})  # fmt: skip
        table.close()
        written = [table.path for table in self._tables.values()]
        show_sums(list(self.modules), self.rows, crew.lost)
        found = {library: self._winners(library, crew) for library in self.modules}
        tuned = [self._path(f"tiles_{library}") for library, some in found.items() if some]
        gains = any(one.gains for some in found.values() for one in some)
        show_left_out(left_out)
        print(f"left out {len(left_out)} cases in all, listed in {self.left_out.name};"
              f" {time.monotonic() - START:.0f} s")  # fmt: skip
        wrong = sum(failed(*entry) for entry in self.rows.items())
        steps = next_steps(wrong, bool(crew.lost), len(left_out), written + tuned, self.work,
                           tuned=bool(tuned), gains=gains, small=self.small)  # fmt: skip
        print("\n".join(f"NEXT {i}. {step}" for i, step in enumerate(steps, 1)), flush=True)

    def _winners(self, library: str, crew: Crew) -> list[Ranked]:
        """The tiles that were measured, shown and the fastest written, where there are any."""
        rows = [
            task.case._asdict() | row for task, row in self.rows.items()
            if task.library == library and isinstance(task.case, Tune)
        ]  # fmt: skip
        if found := ranked(rows):
            print(f"{library}: the tiles, best first")
            show_ranked(found)
            device = crew.devices.get(library, "")
            write_winners(self._path(f"tiles_{library}"), found, device)
        return found
