"""`python -m benchmarks.gpu`: every GPU path against the float64 reference, then timed.

The one entry point for whoever has a GPU, made for a short loan of it:

    python -m benchmarks.gpu --minutes 5
    python -m benchmarks.gpu --minutes 5     # goes on with what the first call left out

What tells most comes first (`benchmarks.gpu.cases.STAGES`), PyTorch and JAX by turns, each in
processes of its own. Routines are checked and losses compiled on all cores; what is timed is timed
alone. The command ends in the given time. Every row is in its file,
benchmarks/results/gpu_{check,speed}_{library}.csv, as soon as it is measured; what is left out, and
why, in gpu_left_out.csv. No failure, hang or crash of a case keeps it from the others. Exit code 0
if nothing failed, now or in an earlier row of the same code on the same device.

What is compiled stays in .gpu, with the workers' logs, for the next call. On a small scale, with
the fused routines interpreted, all of it can be rehearsed; it has not yet been run on a GPU:

    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu --minutes 1
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.gpu import START
from benchmarks.gpu.cases import STAGES, Speed, Task, plan
from benchmarks.gpu.clock import Clock, Memory, still_to_do
from benchmarks.gpu.crew import Crew
from benchmarks.gpu.schedule import LeftOut, Schedule
from benchmarks.gpu.table import MEASURED, ROOT, Table, code_of, path_of, rows_by_key
from benchmarks.machine import machine
from benchmarks.timing import Row

MODULES = {"torch": "benchmarks.gpu.in_torch", "jax": "benchmarks.gpu.in_jax"}
PACKAGES = {"torch": ("torch", "triton", "numpy"), "jax": ("jax", "jaxlib", "numpy")}


def main() -> None:
    """Measure in the given time, and say what failed and what was left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="for the whole command")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--library", choices=list(MODULES), help="one of them alone")
    parser.add_argument("--stages", type=int, nargs="+", choices=list(STAGES), help=stages_help())
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if (options.device == "cpu") != (os.environ.get("TRITON_INTERPRET") == "1"):
        parser.error("TRITON_INTERPRET=1 belongs to --device cpu")  # read when Triton is imported
    if not options.minutes > 0:
        parser.error("--minutes is a number > 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    modules = {name: MODULES[name] for name in MODULES if options.library in (None, name)}
    small = options.device == "cpu"
    tasks = [task for name in modules for task in plan(name, small)
             if options.stages is None or task.stage in options.stages]  # fmt: skip
    session = Session(modules, tasks, options.device, options.results, again=options.again)
    sys.exit(session.run(Clock(options.minutes, START)))


def stages_help() -> str:
    """The stages with their numbers."""
    return "; ".join(f"{number} {name}" for number, name in STAGES.items())


class Session:
    """One call: what there is to do, with what, and where the rows go.

    Args:
        modules: of each library, what does its cases; see `benchmarks.gpu.worker`.
        tasks: of all libraries.
        device: "cuda" or "cpu".
        results: folder of the CSV files.
        work: folder for logs and what is compiled.
        again: measure also what has a row of this device and this code.
    """

    def __init__(
        self, modules: dict[str, str], tasks: list[Task], device: str, results: Path,
        work: Path = ROOT / ".gpu", again: bool = False,
    ) -> None:  # fmt: skip
        self.modules, self.tasks, self.device = modules, tasks, device
        self.results, self.work, self.again = results, work, again
        self.small = device == "cpu"
        self.left_out = results / f"gpu_left_out{'_rehearsal' if self.small else ''}.csv"
        self.rows: dict[Task, Row] = {}
        self._tables: dict[tuple[str, type], Table] = {}
        self._facts: dict[str, Row] = {}

    def run(self, clock: Clock) -> int:
        """Everything, until the clock has run down; the exit code, 0 if nothing failed."""
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
        return int(any(map(failed, self.rows.values())) or bool(crew.lost))

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
                self.rows[task] = row
                memory.add(task, row)
        print(f"{len(self.tasks)} cases, {len(self.rows)} of them measured before", flush=True)
        return still_to_do(self.tasks, set(known))

    def _record(self, task: Task, row: Row) -> None:
        """Write the row of a task into its file, and show it."""
        kind, facts = type(task.case), self._facts[task.library]
        self.rows[task] = row
        if (task.library, kind) not in self._tables:
            columns = [*kind._fields, *MEASURED[kind], *facts]
            path = path_of(self.results, kind, task.library, self.small)
            self._tables[task.library, kind] = Table(path, columns)
        self._tables[task.library, kind].add(task.case._asdict() | row | facts)
        print(shown(task, row), flush=True)

    def _end(self, crew: Crew, left_out: list[LeftOut]) -> None:
        """Write what was left out, and print the sums and what failed."""
        listed = {entry.task for entry in left_out} | set(self.rows)
        left_out += [LeftOut(t, "was not reached") for t in self.tasks if t not in listed]
        table = Table(self.left_out, ("library", "stage", "case", "why", "device"))
        for task, why in left_out:
            table.add({"library": task.library, "stage": task.stage, "case": named(task),
                       "why": why, "device": crew.devices.get(task.library, "")})  # fmt: skip
        table.close()
        for library, why in crew.lost.items():
            print(f"{library}: {why}")
        for library in self.modules:
            rows = [(t, row) for t, row in self.rows.items() if t.library == library]
            wrong = [(t, row) for t, row in rows if failed(row)]
            print(f"{library}: {len(rows) - len(wrong)} of {len(rows)} measured cases are right")
            for task, row in wrong:
                print(f"FAILED {shown(task, row)}")
        counts = Counter((task.stage, task.library) for task, _ in left_out)
        for (stage, library), count in sorted(counts.items()):
            first = next(e for e in left_out if e.task[:2] == (stage, library))
            print(f"left out: {count} of stage {stage} ({STAGES[stage]}), {library};"
                  f" first {named(first.task)}: {first.why}")  # fmt: skip
        print(f"left out {len(left_out)} cases in all, listed in {self.left_out.name};"
              f" {time.monotonic() - START:.0f} s", flush=True)  # fmt: skip


def failed(row: Row) -> bool:
    """Whether a row has an error, or a check in it did not pass."""
    return bool(row.get("error")) or str(row.get("passed", 1)) == "0"


def named(task: Task) -> str:
    """A case in one line."""
    case = task.case
    if isinstance(case, Speed):
        return f"{case.loss} N={case.n} D={case.d} {case.dtype} {case.negatives}"
    more = (", bank" if case.bank else "") + ("" if case.normalize else ", raw")
    return (f"{case.form} {case.divergence} {case.similarity} {case.negatives}{more}"
            f" N={case.n} D={case.d} {case.dtype}")  # fmt: skip


def shown(task: Task, row: Row) -> str:
    """A row in one line."""
    columns = [column for column in MEASURED[type(task.case)] if row.get(column, "") != ""]
    values = "  ".join(f"{column}={short(row[column])}" for column in columns)
    return f"{task.stage} {task.library}: {named(task)}: {values}"


def short(value: object) -> str:
    """A number with four digits, or what else it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
