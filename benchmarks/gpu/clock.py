"""How much time is left, and how long a case will take by those measured before it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

from benchmarks.gpu.cases import Check, Speed, Task, Tune
from benchmarks.timing import Row

Timed = Speed | Tune
#: Seconds that are kept back for the end: to stop the workers and to write what was left out.
MARGIN = 4.0
#: Seconds of a check before there is one to go by.
FIRST_CHECK = 15.0
#: Tflop/s and seconds beside the work that are assumed of a loss before there is one to go by.
FIRST_RATE = {"cpu": 2e-4, "cuda": 20.0}
FIRST_OVERHEAD = 8.0
#: Calls of a loss before those that are timed: for its value, and for its memory.
UNTIMED = 2
#: Seconds after which a worker is ended at the latest, by what it does.
LIMIT = {"check": 60.0, "warm": 60.0}
#: And of what is timed, at the earliest.
LEAST_LIMIT = 40.0


class Clock:
    """Counts down from the start of the command.

    Args:
        minutes: that the whole command may take.
        start: when it started, by `now`.
        now: seconds of a clock that never goes back.
    """

    def __init__(
        self, minutes: float, start: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.now = now
        self.ends = start + 60.0 * minutes - min(MARGIN, 6.0 * minutes)

    def left(self) -> float:
        """Seconds left, less the margin."""
        return self.ends - self.now()


class Memory:
    """The rows measured so far, by which the next are estimated.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.checks: dict[str, list[float]] = {}
        self.speeds: dict[tuple[str, type, str], list[tuple[Timed, float, float]]] = {}

    def add(self, task: Task, row: Row) -> None:
        """Keep what a row says of time; rows without a time say nothing."""
        if row.get("seconds") in (None, ""):
            return
        seconds = float(row["seconds"])
        if isinstance(task.case, Check):
            self.checks.setdefault(task.library, []).append(seconds)
        elif row.get("ms") not in (None, ""):
            entry = task.case, float(row["ms"]), seconds
            self.speeds.setdefault(_kind(task), []).append(entry)

    def expected(self, task: Task) -> float:
        """Seconds that the task will take, on the safe side."""
        case = task.case
        if isinstance(case, Check):
            last = self.checks.get(task.library, ())[-20:]
            return 1.5 * statistics.median(last) if last else FIRST_CHECK
        runs = case.repeats + UNTIMED
        same: list[tuple[Timed, float, float]] = self.speeds.get(_kind(task), [])
        for field in ("dtype", "loss", "pairs"):  # those most like it, as far as there are any
            of = getattr(case, field, "")
            same = [entry for entry in same if getattr(entry[0], field, "") == of] or same
        if not same:
            return FIRST_OVERHEAD + 1e-12 * runs * case.flops / FIRST_RATE[self.device]
        similar, ms, seconds = min(same, key=lambda entry: _apart(entry[0], case))
        overhead = max(0.0, seconds - 1e-3 * ms * (similar.repeats + UNTIMED))
        return 1.0 + 1.2 * (overhead + 1e-3 * ms * runs * max(1.0, case.flops / similar.flops))

    def limit(self, task: Task, does: str) -> float:
        """Seconds after which the worker is taken to hang."""
        return LIMIT.get(does) or max(LEAST_LIMIT, 4.0 * self.expected(task))


def _kind(task: Task) -> tuple[str, type, str]:
    """What has to be equal for one time to say anything of another."""
    return task.library, type(task.case), task.case.form


def _apart(one: Timed, other: Timed) -> float:
    """How many times more work one is than the other, whichever is more."""
    return max(one.flops / other.flops, other.flops / one.flops)


def still_to_do(tasks: Iterable[Task], done: set[tuple[str, ...]]) -> list[Task]:
    """The tasks that are not among those done."""
    return [task for task in tasks if task.key not in done]
