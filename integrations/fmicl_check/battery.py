"""A fixed battery of cases, in each of which a backend's loss is compared with the reference."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import Adapter, Array, Result, describe
from fmicl_check.case import (
    DTYPES,
    FUSED_TOLERANCE,
    IDS,
    SCHEMES,
    SIMILARITIES,
    SUITABLE,
    TILE,
    Case,
)
from fmicl_check.truth import LEARNED, RELATED, TILED, Truth, fmicl_truth, related_truth
from fmicl_core import FMICL
from fmicl_core.checks import check_choice
from fmicl_core.forms import FUSED
from fmicl_core.pairs import SINGLE


@dataclass(frozen=True)
class Outcome:
    """How far a framework is from the truth in one case.

    Args:
        framework: name of the framework.
        device: device, "cpu" or "gpu".
        case: case that was computed.
        loss_error: largest error of loss, score and penalty, relative to |score| +
            alpha |penalty| (to |loss| for a related loss); infinite where something is not
            finite.
        gradient_error: largest error of an entry of any gradient, relative to the largest entry.
        problem: description of what else is wrong, an exception or a wrong dtype; empty if nothing.
        loss: loss that the framework gave.
        wanted: loss that the reference gave.
        seconds: wall time of the case, compilation and truth included.
    """

    framework: str
    device: str
    case: Case
    loss_error: float = math.inf
    gradient_error: float = math.inf
    problem: str = ""
    loss: float = math.nan
    wanted: float = math.nan
    seconds: float = 0.0

    @property
    def severity(self) -> float:
        """The larger ratio of error to tolerance, of loss and gradient; above 1 the case fails."""
        if self.problem:
            return math.inf
        loss, gradient = self.case.tolerance
        return max(self.loss_error / loss, self.gradient_error / gradient)

    @property
    def passed(self) -> bool:
        """Whether both errors are within tolerance and nothing else is wrong."""
        return self.severity <= 1.0

    @property
    def command(self) -> str:
        """The shell command that computes this case again."""
        call = f"run_case({self.framework!r}, {self.case!r}, {self.device!r})"
        return f'python -c "from fmicl_check import *; print({call})"'


def cases(dtypes: Iterable[str] = DTYPES, full: bool = False, fused: bool = False) -> list[Case]:
    """The cases of the battery.

    The dense form takes full products, since it is cheap: in float64 every divergence meets every
    scheme, and any two of divergence, similarity and negatives meet; every divergence comes in
    every dtype. What a framework compiles for a second or more is chosen so that it covers: in
    tiles every divergence, scheme, similarity, dtype, loss by name and kind of ids occurs, and a
    few cases are compiled, in both forms and every dtype. Other products are left to `full`.

    Args:
        dtypes: dtypes to compute in.
        full: whether all combinations are computed instead.
        fused: whether the fused routine computes every divergence as well, see `has_fused`.

    Raises:
        ValueError: a dtype is unknown.
    """
    chosen = [check_choice("dtype", dtype, DTYPES) for dtype in dtypes]
    battery = [*(_all_combinations() if full else _pairs()), *_large(full)]
    battery += [*_related(full), *_with_ids(full), *_learned(full)]
    battery.append(Case("js", negatives="within", implementation="tiled", auto=True))
    battery += _fused() if fused else ()
    return [case for case in battery if case.dtype in chosen]


def _all_combinations() -> Iterator[Case]:
    for case in product(SUITABLE, SIMILARITIES, SCHEMES, ("dense", "tiled"), DTYPES, (False, True)):
        yield Case(*case)


def _pairs() -> Iterator[Case]:
    similarities, forms = list(SIMILARITIES), ("dense", "tiled")
    for i, loss in enumerate(SUITABLE):
        for j, scheme in enumerate(SCHEMES):
            # A Latin square: every similarity once in a row, and once in any five of a column.
            yield Case(loss, similarities[(i + j) % len(similarities)], scheme)
        # Steps of 2 and 3 through five of each: tiles meet every scheme and every similarity.
        chosen = loss, similarities[3 * i % len(similarities)], SCHEMES[2 * i % len(SCHEMES)]
        yield Case(*chosen, "tiled")
        for dtype in DTYPES[1:]:  # together, since XLA has one program for both
            yield Case(loss, similarities[0], SCHEMES[0], "dense", dtype)
            if i in (0, 3):
                yield Case(*chosen, "tiled", dtype)
        if i < len(DTYPES):
            yield Case(*chosen, forms[i % len(forms)], DTYPES[i], compiled=True)


def _large(full: bool) -> Iterator[Case]:
    yield Case("js", negatives="bank", implementation="auto", dtype="float32")
    if full:
        yield Case("js", negatives="bank", implementation="auto", dtype="float64")
        yield Case("kl", negatives="all", implementation="auto", dtype="float32")


def _with_ids(full: bool) -> Iterator[Case]:
    similarities, kinds = list(SIMILARITIES), list(IDS)
    for i, loss in enumerate(SUITABLE):
        kind, similarity = kinds[i % len(kinds)], similarities[i % len(similarities)]
        schemes = SCHEMES if IDS[kind][0] else (*SINGLE, "bank")
        yield Case(loss, similarity, schemes[i % len(schemes)], ids=kind)
        if full or i < len(kinds):
            yield Case(loss, similarity, schemes[(i + 1) % len(schemes)], "tiled", ids=kind)
            yield Case(loss, similarity, schemes[i % len(schemes)], "dense", "float32", ids=kind)
    for kind, scheme in zip(kinds, ("all", "cross", "within"), strict=True):
        for form in ("dense", "tiled"):
            yield Case("info_nce_loss", negatives=scheme, implementation=form, ids=kind)


def _learned(full: bool) -> Iterator[Case]:
    for i, loss in enumerate(SUITABLE):
        for form in ("dense", "tiled") if full else ("dense",):
            yield Case(loss, "gaussian", SCHEMES[i % len(SCHEMES)], form, learned=True)
    yield Case("kl", "cosine", "all", "tiled", learned=True)
    for compiled in (False, True) if full else (True,):
        kind = "labels of two views"
        yield Case("js", "gaussian", "all", "tiled", "float32", compiled, kind, learned=True)
    chosen = "js", "gaussian, any norm", "cross"
    yield from (Case(*chosen, "tiled", dtype, learned=True) for dtype in DTYPES[1:])
    for loss in LEARNED:
        for form in ("dense", "tiled"):
            yield Case(loss, negatives=RELATED[loss][0], implementation=form, learned=True)


def _fused() -> Iterator[Case]:
    similarities = list(SIMILARITIES)
    for i, loss in enumerate(SUITABLE):
        similarity, scheme = similarities[2 * i % len(similarities)], SCHEMES[i % len(SCHEMES)]
        yield from (Case(loss, similarity, scheme, FUSED, dtype) for dtype in FUSED_TOLERANCE)


def has_fused(adapter: Adapter) -> bool:
    """Whether the framework has a fused routine on this device."""
    try:
        adapter.evaluate(np.eye(2), np.eye(2), None, FMICL(), "bfloat16", FUSED)
    except Exception as error:  # what is no refusal shows again in the cases
        return "argument `implementation`" not in str(error)
    return True


def _related(full: bool) -> Iterator[Case]:
    for loss, schemes in RELATED.items():
        for j, scheme in enumerate(schemes):
            yield Case(loss, negatives=scheme)
            if full or (loss, j) == ("info_nce_loss", 1):
                yield Case(loss, negatives=scheme, compiled=True)
            # The first scheme comes in tiles with scalars that learn, see `_learned`.
            if loss in TILED and (full or j == len(schemes) - 1 > 0):
                yield Case(loss, negatives=scheme, implementation="tiled")


def run_case(framework: str | Adapter, case: Case, device: str = "cpu") -> Outcome:
    """Compute one case and compare it with the truth; whatever goes wrong is in the outcome.

    Args:
        framework: name of the framework, or its adapter, whose device is taken instead of `device`.
        case: case to compute.
        device: device, "cpu" or "gpu".

    Raises:
        ImportError: the framework is not installed.
    """
    adapter = ADAPTERS[framework](device) if isinstance(framework, str) else framework
    begun = time.perf_counter()
    outcome = _judge(adapter, case)
    return replace(outcome, seconds=time.perf_counter() - begun)


def _judge(adapter: Adapter, case: Case) -> Outcome:
    try:
        features = {k: adapter.rounded(v, case.dtype) for k, v in case.features().items()}
        got = _compute(adapter, case, features)
    except Exception as error:
        return Outcome(adapter.name, adapter.device, case, problem=describe(error))
    truth = _truth(case, features)
    largest = {k: float(np.abs(wanted).max()) for k, wanted in truth.gradients.items()}
    # Scalars gather what all features add up to, so that these are measured by themselves.
    sides = max(largest[k] for k in features)
    errors = [
        np.abs(got.grads[k] - wanted).max() / (sides if k in features else max(largest.values()))
        for k, wanted in truth.gradients.items()
    ]
    terms = zip((got.loss, got.score, got.penalty), truth.terms, strict=False)
    distances = [abs(value - wanted) for value, wanted in terms]
    return Outcome(
        adapter.name, adapter.device, case, _largest(distances) / truth.size, _largest(errors),
        _wrong_dtype(case, got), got.loss, truth.terms[0],
    )  # fmt: skip


def _compute(adapter: Adapter, case: Case, features: dict[str, Array]) -> Result:
    arrays: dict[str, Any] = {"y": None, "bank": None, **features}
    if case.is_related:
        options: dict[str, Any] = (
            {} if case.negatives in ("", "bank") else {"negatives": case.negatives}
        )
        if case.implementation != "dense":
            options["implementation"] = case.implementation
        ids: dict[str, Array | None] = {**case.numbers()}
        options |= {"ids": ids, "positives": case.positives} if ids else {}
        arrays |= {k: np.array(v) for k, v in case.scalars().items()}
        with adapter.tiles(TILE):
            return adapter.call(str(case.loss), arrays, case.dtype, case.compiled, **options)
    with adapter.tiles(TILE) if case.implementation == "tiled" else nullcontext():
        return adapter.evaluate(
            arrays["x"], arrays["y"], arrays["bank"], case.objective,
            case.dtype, case.implementation, case.compiled, **case.numbers(),
        )  # fmt: skip


def _truth(case: Case, features: dict[str, Array]) -> Truth:
    if case.is_related:
        positives = {"positives": case.positives} if case.ids else {}
        given = features | {k: np.array(v) for k, v in case.scalars().items()}
        return related_truth(str(case.loss), case.negatives, given, **case.numbers(), **positives)
    return fmicl_truth(case.objective, features, **case.numbers())


def _largest(errors: Iterable[Any]) -> float:
    """The largest error; infinite when one is no number, which `max` would overlook."""
    found = [float(error) for error in errors]
    return max(found) if all(math.isfinite(error) for error in found) else math.inf


def _wrong_dtype(case: Case, got: Result) -> str:
    wanted = dict.fromkeys(got.grads, case.dtype)
    wanted["loss"] = "float64" if case.dtype == "float64" else "float32"
    wrong = [f"{k} is {got.dtypes[k]}, not {v}" for k, v in wanted.items() if got.dtypes[k] != v]
    return "; ".join(wrong)
