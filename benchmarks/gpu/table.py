"""CSV files that grow by a row at a time, so that an interrupted run keeps what it measured."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu.cases import Check, Speed, Task, Tune
from benchmarks.timing import Row

ROOT = Path(__file__).resolve().parents[2]
#: Columns that are measured, or predicted, beside the fields of a case and the machine. A user
#: waits `ms` for a loss with its gradients; the GPU is at work for `device_ms` of it.
MEASURED = {
    Check: ("loss_error", "gradient_error", "scalar_error", "passed", "error", "seconds"),
    Speed: (
        "ms", "device_ms", "predicted_ms", "fraction_of_rate", "rate_tflops", "extra_mib", "value",
        "error", "seconds",
    ),
    Tune: ("ms", "tiles", "value", "gradient", "error", "seconds"),
}  # fmt: skip
NAMES = {Check: "check", Speed: "speed", Tune: "tune"}


def path_of(folder: Path, kind: type, library: str, small: bool) -> Path:
    """Where the rows of a kind of case are."""
    return folder / f"gpu_{NAMES[kind]}_{library}{'_rehearsal' if small else ''}.csv"


class Table:
    """A CSV file that rows are added to; each is in the file when `add` returns.

    Args:
        path: of the file. One with other columns is kept under another name.
        columns: in their order.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text and not text.startswith(",".join(self.columns) + "\n"):
            path.replace(path.with_suffix(".before.csv"))
            text = ""
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, self.columns, restval="", lineterminator="\n")
        if not text:
            self._writer.writeheader()
        elif not text.endswith("\n"):  # a row that was cut off
            self._file.write("\n")
        self._file.flush()

    def add(self, row: Row) -> None:
        """Append a row."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def earlier(path: Path, wanted: Row) -> list[dict[str, str]]:
    """Whole rows of a file that have the wanted values in the wanted columns."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if all(row.get(k) == str(v) for k, v in wanted.items())]


def rows_by_key(
    tasks: Iterable[Task], folder: Path, small: bool, wanted: Row
) -> dict[tuple[str, ...], dict[str, str]]:
    """The earlier rows of the tasks that have any; of several the last."""
    tasks = list(tasks)
    known = {task.key for task in tasks}
    found = {}
    for library in {task.library for task in tasks}:
        for kind in MEASURED:
            for row in earlier(path_of(folder, kind, library, small), wanted):
                key = (library, kind.__name__, *(row[field] for field in kind._fields))
                if key in known:
                    found[key] = row
    return found


def code_of(library: str) -> str:
    """A number of the code that is measured: of another, rows are measured again."""
    measured = [ROOT / "fmicl_core", ROOT / "backends" / f"fmicl_{library}"]
    paths = sorted(path for folder in measured for path in folder.glob("*.py"))
    paths += [
        Path(__file__).with_name(name)
        for name in (f"in_{library}.py", f"plain_{library}.py", "cases.py")
    ]
    return digest_of(path for path in paths if path.exists())


def digest_of(paths: Iterable[Path]) -> str:
    """A number of the content of files, in their order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:10]
