"""The findings of a check, as rows of a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fmicl_check.base import Adapter
from fmicl_check.battery import Outcome
from fmicl_check.frameworks import Absent
from fmicl_check.parity import Findings


@dataclass(frozen=True)
class Row:
    """All cases of one framework in one dtype, those of a fused routine apart.

    Args:
        framework: name of the framework.
        version: version of the framework.
        device: device, "cpu" or "gpu".
        dtype: dtype of the features, with "fused" behind it for a fused routine.
        cases: number of cases that were computed.
        failed: number of cases that failed.
        loss_error: largest error of the loss.
        gradient_error: largest error of the gradient.
        seconds: wall time of all cases, one after the other.
        worst: outcome furthest from passing.
    """

    framework: str
    version: str
    device: str
    dtype: str
    cases: int
    failed: int
    loss_error: float
    gradient_error: float
    seconds: float
    worst: Outcome

    @property
    def tolerance(self) -> tuple[float, float]:
        """Largest errors of loss and gradient that pass."""
        return self.worst.case.tolerance

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return self.failed == 0


def rows_of(adapter: Adapter, outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for every label, in the order of the outcomes."""
    rows = []
    for label in dict.fromkeys(o.case.label for o in outcomes):
        found = [o for o in outcomes if o.case.label == label]
        rows.append(
            Row(
                adapter.name, adapter.version, adapter.device, label, len(found),
                sum(not o.passed for o in found), max(o.loss_error for o in found),
                max(o.gradient_error for o in found), sum(o.seconds for o in found),
                max(found, key=lambda o: o.severity),
            )
        )  # fmt: skip
    return rows


def losses_report(rows: Iterable[Row], absent: Iterable[Absent], passed: bool) -> dict[str, Any]:
    """The findings of the battery, for JSON; a number that is not finite is null."""
    found = []
    for row in rows:
        entry = asdict(row) | {"passed": row.passed}
        entry["loss_tolerance"], entry["gradient_tolerance"] = row.tolerance
        entry["worst"] |= {"command": row.worst.command, "passed": row.worst.passed}
        found.append(entry)
    return _finite(
        {"check": "losses", "passed": passed, "rows": found, "absent": list(map(asdict, absent))}
    )


def training_report(findings: Findings, passed: bool) -> dict[str, Any]:
    """Comparisons and loss curves for JSON; a number that is not finite is null."""
    comparisons = []
    for c in (c for group in findings.groups for c in group.comparisons):
        entry = asdict(c)
        limits = {"tolerance": c.tolerance, "weights_tolerance": c.weights_tolerance}
        comparisons.append(entry.pop("training") | entry | limits | {"passed": c.passed})
    curves = [
        asdict(g.training) | {"curves": {name: curve.tolist() for name, curve in g.curves.items()}}
        for g in findings.groups
    ]
    return _finite(
        {
            "check": "training", "passed": passed, "versions": findings.versions,
            "comparisons": comparisons, "runs": curves,
            "absent": list(map(asdict, findings.absent)),
        }
    )  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    """The report as JSON."""
    return json.dumps(report, indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
