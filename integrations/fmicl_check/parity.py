"""The same training by several trainers: their curves and weights, and how far these are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmicl_check.base import Array, describe
from fmicl_check.columns import COLUMNS, Column, Trained, opened, train
from fmicl_check.frameworks import Absent
from fmicl_check.processes import Died, Part, side_by_side
from fmicl_check.training import DTYPES, Training, trainings
from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.choices import METHODS
from fmicl_recipes.weights import Weights

#: Largest relative difference of equal float64 curves and weights; computing something else makes
#: more.
EQUAL = 1e-9
#: The same for float32 losses, which rounding and the kinks of ReLUs part after some steps, in one
#: framework as between two. So the first steps alone are judged, and weights are not.
FLOAT32, FIRST_STEPS = 1e-4, 5
#: Name of the run from weights one unit in the last place away.
NUDGED = "rounding"


@dataclass(frozen=True)
class Comparison:
    """A training by one trainer beside the same by the reference.

    Args:
        training: what was trained.
        framework: name of the column that is compared.
        reference: name of the column that it is compared with.
        difference: largest |a - b| / |b| of the steps that are judged, with the losses a of the
            column and b of the reference; infinite where a loss is not finite.
        step: step with the largest difference, from 1.
        weights: largest |a - b| / max |b| of all arrays at the end, the maximum over an array.
        array: canonical name of the array with that difference.
        problem: description of what kept a trainer from training; empty if nothing.
    """

    training: Training
    framework: str
    reference: str
    difference: float = math.inf
    step: int = 0
    weights: float = math.inf
    array: str = ""
    problem: str = ""

    @property
    def tolerance(self) -> float:
        """Largest difference of the losses that passes."""
        return EQUAL if self.training.dtype == "float64" else FLOAT32

    @property
    def weights_tolerance(self) -> float | None:
        """Largest difference of the weights that passes; None where any finite one does."""
        return EQUAL if self.training.dtype == "float64" else None

    @property
    def passed(self) -> bool:
        """Whether curves and weights are as equal as the dtype allows."""
        most = self.weights_tolerance
        weights = math.isfinite(self.weights) if most is None else self.weights <= most
        return not self.problem and self.difference <= self.tolerance and weights


@dataclass(frozen=True)
class Group:
    """One training by every trainer.

    Args:
        training: what was trained.
        curves: losses (steps,) by column; under `NUDGED` those from nudged initial weights.
        comparisons: comparisons of every other column with the reference.
    """

    training: Training
    curves: dict[str, Array]
    comparisons: list[Comparison]


@dataclass
class Findings:
    """All groups, and what could not be compared.

    Args:
        groups: trainings, each by every trainer.
        versions: versions of what each column consists of.
        absent: columns that could not train.
    """

    groups: list[Group] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: list[Absent] = field(default_factory=list)

    def passed(self, frameworks: Iterable[str] = ()) -> bool:
        """Whether all is equal, nothing is broken, and every framework asked for has trained."""
        trained = {c.framework for c in COLUMNS if c.name in self.versions}
        broken = any(a.state == "broken" for a in self.absent)
        equal = all(c.passed for g in self.groups for c in g.comparisons)
        return equal and not broken and trained.issuperset(frameworks)


def planned(methods: Iterable[str], steps: int, dtypes: Iterable[str]) -> list[Training]:
    """The trainings of a check.

    Raises:
        ValueError: a method or dtype is unknown, or steps < 1.
    """
    methods = [check_choice("method", method, METHODS) for method in methods]
    return trainings(methods, steps, [check_choice("dtype", dtype, DTYPES) for dtype in dtypes])


def runs_of(columns: Sequence[Column], plan: Sequence[Training]) -> int:
    """The number of runs of a check: of every column, and nudged ones of the first."""
    return (len(columns) + 1) * len(plan)


def train_everywhere(
    columns: Sequence[Column],
    plan: Sequence[Training],
    device: str = "cpu",
    announce: Callable[[str], None] = lambda what: None,
) -> Findings:
    """Take every trainer through every training, each trainer in a process of its own.

    Args:
        columns: trainers; the first is the reference.
        plan: trainings.
        device: device, "cpu" or "gpu".
        announce: function that is told what has been trained.

    Raises:
        ValueError: there are fewer than two trainers.
    """
    if len(columns) < 2:
        names = [column.name for column in columns]
        raise invalid("framework", "at least two trainers that can be used, to compare", names)
    parts, runs = {}, {}
    for place, column in enumerate(columns):
        runs[column.name] = [
            (training, nudge) for training in plan for nudge in (False, True)[: 1 + (place == 0)]
        ]
        given = column, runs[column.name], device
        parts[column.name] = Part(given, 1 + len(runs[column.name]))
    findings, found = Findings(), {}
    for name, result in side_by_side(_trained, parts):
        if isinstance(result, Absent):
            findings.absent.append(result)
        elif isinstance(result, Died):
            findings.absent.append(Absent(name, "broken", result.problem))
        elif isinstance(result, dict):
            findings.versions[name] = result
        else:
            training, nudge = runs[name].pop(0)
            announce(f"{training.method}, {training.title}, {training.dtype}: {name}")
            found[training, NUDGED if nudge else name] = result
    working = [column.name for column in columns if column.name in findings.versions]
    findings.groups = [_group(training, columns[0].name, working, found) for training in plan]
    return findings


def _trained(
    column: Column, runs: Sequence[tuple[Training, bool]], device: str
) -> Iterator[dict[str, str] | Absent | Trained | str]:
    """What `prepare` found, and then for every run what was trained, or what kept it from it."""
    found = opened(column, runs[0][0], device)
    yield found
    if isinstance(found, Absent):
        return
    for training, nudge in runs:
        try:
            yield train(column, training, device, nudge=nudge)
        except Exception as error:
            yield describe(error)


def _group(
    training: Training, reference: str, names: Sequence[str], found: Mapping[Any, Trained | str]
) -> Group:
    runs = {name: found.get((training, name), "not trained") for name in (*names, NUDGED)}
    right = runs.get(reference, "the reference has not trained")
    judged = None if training.dtype == "float64" else FIRST_STEPS
    comparisons = []
    for name in names:
        if name == reference:
            continue
        problems = [run for run in (runs[name], right) if isinstance(run, str)]
        own = _distances(runs[name], right, judged)
        problem = problems[0] if problems else ""
        comparisons.append(Comparison(training, name, reference, *own, problem))
    curves = {name: run.losses for name, run in runs.items() if isinstance(run, Trained)}
    return Group(training, curves, comparisons)


def _distances(
    a: Trained | str, b: Trained | str, steps: int | None
) -> tuple[float, int, float, str]:
    """Largest difference of the first losses and its step; that of the weights and its array."""
    if isinstance(a, str) or isinstance(b, str):
        return math.inf, 0, math.inf, ""
    relative = relative_difference(a.losses[:steps], b.losses[:steps])
    arrays = weight_differences(a.weights, b.weights)
    worst = max(arrays, key=lambda name: arrays[name])
    return float(relative.max()), int(relative.argmax()) + 1, arrays[worst], worst


def relative_difference(a: Array, b: Array) -> Array:
    """|a - b| / |b| of every step; infinite where either is not finite."""
    with np.errstate(all="ignore"):
        relative = np.abs(a - b) / np.abs(b)
    return np.where(np.isfinite(relative), relative, np.inf)


def weight_differences(a: Weights, b: Weights) -> dict[str, float]:
    """Largest |a - b| of every array over max |b|; infinite where not finite, or one is missing.

    A running mean, which may be 0 but for rounding, is measured by its deviation where that is
    larger, as norms measure it.
    """
    found = {}
    for name in a.keys() | b.keys():
        if name not in a or name not in b or a[name].shape != b[name].shape:
            found[name] = math.inf
            continue
        gap, size = np.abs(a[name] - b[name]).max(), np.abs(b[name]).max()
        if name.endswith("running_mean"):
            size = max(size, np.sqrt(b[name.replace("_mean", "_var")]).max())
        relative = 0.0 if gap == 0.0 else float(gap / size) if size else math.inf
        found[name] = relative if math.isfinite(relative) else math.inf
    return found
