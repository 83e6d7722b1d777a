"""What a call prints: a row in one line, the sums at the end, and what to do next."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.gpu.cases import Check, Task, Tune
from benchmarks.gpu.plan import STAGES
from benchmarks.gpu.schedule import LeftOut
from benchmarks.gpu.table import MEASURED, ROOT
from benchmarks.gpu.tuning import TUNE_STAGES
from benchmarks.timing import Row


def failed(task: Task, row: Row) -> bool:
    """Whether a row has an error, or a check in it did not pass; other tiles need not fit."""
    if isinstance(task.case, Tune) and task.case.tiles:
        return False
    return bool(row.get("error")) or str(row.get("passed", 1)) == "0"


def named(task: Task) -> str:
    """A case in one line."""
    case = task.case
    size = f"N={case.n} D={case.d} {case.dtype}"
    if isinstance(case, Tune):
        tiles = " ".join(str(n) for n in case.tiles.values() if n) or "present"
        return f"js {case.form} {case.negatives} {size} tiles {tiles}"
    more = [case.pairs] * (case.pairs != "rows") + [case.scalars] * (case.scalars == "learned")
    if isinstance(case, Check):
        more += ["bank"] * case.bank + ["raw"] * (not case.normalize)
        more = [case.similarity] * (case.similarity != "-") + more
    elif case.bank:
        more += [f"bank {case.bank}"]
    return " ".join([case.loss, case.form, case.negatives, *more, size])


def shown(task: Task, row: Row) -> str:
    """A row in one line."""
    columns = [column for column in MEASURED[type(task.case)] if row.get(column, "") != ""]
    values = "  ".join(f"{column}={short(row[column])}" for column in columns)
    return f"{task.stage} {task.library}: {named(task)}: {values}"


def short(value: object) -> str:
    """A number with four digits, or what else it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_sums(libraries: list[str], rows: dict[Task, Row], lost: dict[str, str]) -> None:
    """Print how many cases are right, and each that is not."""
    for library, why in lost.items():
        print(f"{library}: {why}")
    for library in libraries:
        own = [(task, row) for task, row in rows.items() if task.library == library]
        wrong = [(task, row) for task, row in own if failed(task, row)]
        print(f"{library}: {len(own) - len(wrong)} of {len(own)} measured cases are right")
        for task, row in wrong:
            print(f"FAILED {shown(task, row)}")


def show_left_out(left_out: list[LeftOut]) -> None:
    """Print how many cases of each stage were left out, and why the first of them was."""
    by_stage: dict[int, list[LeftOut]] = {}
    for entry in left_out:
        by_stage.setdefault(entry.task.stage, []).append(entry)
    for stage, entries in sorted(by_stage.items()):
        first, counts = entries[0], Counter(entry.task.library for entry in entries)
        stages = TUNE_STAGES if isinstance(first.task.case, Tune) else STAGES
        listed = ", ".join(f"{count} of {library}" for library, count in counts.items())
        print(f"left out of stage {stage} ({stages[stage]}): {listed};"
              f" first {named(first.task)}: {first.why}")  # fmt: skip


def next_steps(
    wrong: int, lost: bool, left_out: int, written: list[Path], logs: Path, *, tuned: bool,
    gains: bool, small: bool,
) -> list[str]:  # fmt: skip
    """What to do after a call, in order.

    Args:
        wrong: number of cases that failed.
        lost: whether a library does not start.
        left_out: number of cases that were left out.
        written: files with rows of this call.
        logs: folder with the output of the workers.
        tuned: whether tiles were measured.
        gains: whether any of them are worth a change.
        small: whether it was a rehearsal, which measures nothing.
    """
    files = [str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path) for path in written]
    listed = ", ".join(files)
    if small:
        steps = [f"This was a rehearsal: nothing to commit; its rows are in {listed or 'no file'}."]
    else:
        steps = [f"Commit {listed}."] if files else []
    if lost:
        steps.append(
            f"A library does not start: its output ends the logs in {logs}; mend that first."
        )
    if wrong:
        steps.append(f"Mend the {wrong} cases marked FAILED above (`error` in the files, tracebacks"
                     f" in the logs in {logs}); what is mended is measured anew.")  # fmt: skip
    if left_out:
        steps.append(f"Run the same command again: it goes on with the {left_out} left out.")
    if small:
        return steps
    if gains:
        steps.append("Put the winners, where they are faster than the present tiles, into the table"
                     " of fmicl_core/fused.py, and run `python -m benchmarks.gpu` to see their"
                     " rows.")  # fmt: skip
    elif tuned:
        steps.append("No other tiles were faster by 3 percent: leave the present ones.")
    elif not (left_out or wrong or lost):
        steps.append("All is measured; `python -m benchmarks.gpu --tune` looks for better tiles.")
    return steps
