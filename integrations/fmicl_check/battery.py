"""A fixed battery of cases, in each of which a backend's loss is compared with the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
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
    SMALL_TILE,
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
    """

    framework: str
    device: str
    case: Case
    loss_error: float = math.inf
    gradient_error: float = math.inf
    problem: str = ""
    loss: float = math.nan
    wanted: float = math.nan

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

    In float64 any two of divergence, similarity, negatives and form (dense, tiled) meet. Lower
    precision is about rounding and compilers about operations, so there each divergence comes in
    both forms: in each dtype eagerly, in one dtype compiled, which takes a framework longest.
    Ids come in both forms with every divergence, and in turn with what they say and with the rest.
    So does a learned scale and bias.

    Args:
        dtypes: dtypes to compute in.
        full: whether all combinations are computed instead.
        fused: whether the fused routine computes every divergence as well, see `has_fused`.

    Raises:
        ValueError: a dtype is unknown.
    """
    chosen = [check_choice("dtype", dtype, DTYPES) for dtype in dtypes]
    battery = [*(_all_combinations() if full else _pairs()), *_large()]
    battery += [*_related(), *_with_ids(), *_learned()]
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
            similarity = similarities[(i + j) % len(similarities)]
            yield Case(loss, similarity, scheme, forms[(i + j) % 2])
        scheme = SCHEMES[2 * i % len(SCHEMES)]
        similarity = similarities[3 * i % len(similarities)]
        for j, form in enumerate(forms):
            yield from (Case(loss, similarity, scheme, form, dtype) for dtype in DTYPES[1:])
            yield Case(loss, similarity, scheme, form, DTYPES[(i + j) % len(DTYPES)], compiled=True)


def _large() -> Iterator[Case]:
    yield Case("js", negatives="bank", implementation="auto", dtype="float64")
    yield Case("kl", negatives="all", implementation="auto", dtype="float32")


def _with_ids() -> Iterator[Case]:
    similarities, kinds = list(SIMILARITIES), list(IDS)
    for i, loss in enumerate(SUITABLE):
        kind, similarity = kinds[i % len(kinds)], similarities[i % len(similarities)]
        schemes = SCHEMES if IDS[kind][0] else (*SINGLE, "bank")
        for j, form in enumerate(("dense", "tiled")):
            scheme = schemes[(i + j) % len(schemes)]
            yield Case(loss, similarity, scheme, form, ids=kind)
            yield Case(loss, similarity, scheme, form, "float32", ids=kind)
    for i, kind in enumerate(IDS):
        yield Case("kl", "gaussian", "all", "tiled", DTYPES[i], compiled=True, ids=kind)
        for form in ("dense", "tiled"):
            yield Case("info_nce_loss", negatives="all", implementation=form, ids=kind)


def _learned() -> Iterator[Case]:
    kinds = list(IDS)
    for i, loss in enumerate(SUITABLE):
        scheme, forms = SCHEMES[i % len(SCHEMES)], ("dense", "tiled")
        yield Case(loss, "gaussian", scheme, forms[i % 2], learned=True)
        yield Case(loss, "gaussian", scheme, forms[1 - i % 2], DTYPES[1 + i % 2], learned=True)
    for form, dtype in zip(("dense", "tiled"), DTYPES[:2], strict=True):
        yield Case("kl", "cosine", "all", form, learned=True)
        yield Case("js", "gaussian, any norm", "cross", form, dtype, compiled=True, learned=True)
        yield Case("js", "gaussian", "all", form, ids=kinds[1], learned=True)
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


def _related() -> Iterator[Case]:
    for loss, schemes in RELATED.items():
        for j, scheme in enumerate(schemes):
            yield Case(loss, negatives=scheme, compiled=j > 0)
            if loss in TILED:
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
        with adapter.tiles(SMALL_TILE):
            return adapter.call(case.loss, arrays, case.dtype, case.compiled, **options)
    with adapter.tiles(TILE) if case.implementation == "tiled" else nullcontext():
        return adapter.evaluate(
            arrays["x"], arrays["y"], arrays["bank"], case.objective,
            case.dtype, case.implementation, case.compiled, **case.numbers(),
        )  # fmt: skip


def _truth(case: Case, features: dict[str, Array]) -> Truth:
    if case.is_related:
        positives = {"positives": case.positives} if case.ids else {}
        given = features | {k: np.array(v) for k, v in case.scalars().items()}
        return related_truth(case.loss, case.negatives, given, **case.numbers(), **positives)
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
