"""What a study has measured: a row for every finished run, and the histories of those on test data.

Two files are all that is needed to print a study again, and to go on with it on another machine.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.checks import is_number
from fmicl_recipes.files import read_text, write_atomically
from fmicl_recipes.metrics import cpu_name, versions
from fmicl_recipes.study.plan import FINAL, Job

RESULTS, HISTORIES = "results.csv", "history.csv"
#: Folder of the run folders.
RUNS = "runs"
#: Columns that say what a run was, and where it ran.
WHAT = ("key", "entry", "stage", "choice", "seed", "error")
WHERE = ("date", "cpu", "versions")
#: Stage of rows of what was scored before training, and is no run.
BASELINE = "baseline"


class Results:
    """The rows of a study, each written as soon as it is there.

    Args:
        folder: folder of the study.

    Raises:
        ValueError: its files are not those of a study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows = {row["key"]: row for row in _read(folder / RESULTS, WHAT)}
        self._histories = _read(folder / HISTORIES, ("key", "epoch"))

    def __contains__(self, job: Job) -> bool:
        return job.key in self._rows

    def keys(self) -> set[str]:
        """The keys of all runs that have rows."""
        return {key for key, row in self._rows.items() if row["stage"] != BASELINE}

    def error(self, job: Job) -> str:
        """Why a run failed, or ""."""
        return self._rows[job.key]["error"]

    def measured(self, job: Job) -> dict[str, float]:
        """The numbers of a run by their names; none of one that failed."""
        row = self._rows.get(job.key, {})
        return {} if row.get("error") else _floats(row)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The numbers of what was scored before training, by its name."""
        rows = self._rows.values()
        return {row["entry"]: _floats(row) for row in rows if row["stage"] == BASELINE}

    def history(self, job: Job) -> list[dict[str, float]]:
        """The epochs of a run."""
        rows = [row for row in self._histories if row["key"] == job.key]
        return [{k: float(v) for k, v in row.items() if k != "key" and v != ""} for row in rows]

    def add(
        self, job: Job, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]],
        error: str = "",
    ) -> None:  # fmt: skip
        """Keep what a run has measured, or why it failed.

        Args:
            job: the run.
            metrics: contents of its metrics.json; the numbers are kept.
            history: rows of its history.csv, kept of runs on test data.
            error: why it failed; "" if it did not.
        """
        packages = metrics.get("versions") or versions()
        where = {"date": date.today().isoformat(), "cpu": cpu_name(),
                 "versions": " ".join(f"{k}={v}" for k, v in packages.items())}  # fmt: skip
        what = {"key": job.key, "entry": job.entry, "stage": job.stage,
                "choice": json.dumps(dict(job.choice)), "seed": str(job.seed),
                "error": error}  # fmt: skip
        self._rows[job.key] = what | _numbers(metrics) | where
        for name, row in metrics.get("baselines", {}).items():
            key = f"{job.key}-{name}"
            other = {"key": key, "entry": name, "stage": BASELINE}
            self._rows[key] = other | _numbers(row) | where
        first = (*WHAT, *_numbers(metrics))
        _write(self.folder / RESULTS, list(self._rows.values()), first, WHERE)
        if job.stage == FINAL and not error:
            rows = [{k: str(v) for k, v in row.items()} for row in history]
            self._histories += [{"key": job.key, **row} for row in rows]
            _write(self.folder / HISTORIES, self._histories, ("key",))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of metrics.json as texts, those of single tasks beside the others."""
    every = {**metrics, **metrics.get("sts", {})}
    return {k: f"{v:.6g}" for k, v in every.items() if is_number(v) and k != "seed"}


def _floats(row: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a row."""
    found = {k: v for k, v in row.items() if k not in (*WHAT, *WHERE) and v != ""}
    return {name: float(text) for name, text in found.items()}


def _read(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    rows = list(csv.DictReader(io.StringIO(read_text(path, "out"))))
    if rows and not set(needed) <= rows[0].keys():
        raise invalid("out", f"a folder whose {path.name} has the columns {', '.join(needed)}",
                      str(path.parent))  # fmt: skip
    return rows


def _write(
    path: Path, rows: list[dict[str, str]], first: Sequence[str], last: Sequence[str] = ()
) -> None:
    every = dict.fromkeys([*first, *(name for row in rows for name in row)])
    names = [name for name in every if name not in last] + list(last)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
