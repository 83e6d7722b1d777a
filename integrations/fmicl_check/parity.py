"""The same training in several frameworks: their loss curves, and how far these are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from fmicl_check.base import Adapter, Array, describe
from fmicl_check.methods import LOSSES, METHODS, Model
from fmicl_check.optimizers import make_sgd
from fmicl_check.setup import Setup, make_setup
from fmicl_core.checks import check_choice, invalid

#: Powers of two, exact in every dtype: Keras holds the rate in float32, where 0.1 is 0.1 + 1.5e-9.
RATE, MOMENTUM = 0.125, 0.875
DTYPES = ("float64", "float32")
#: Largest relative difference of equal float64 curves; computing something else makes more.
EQUAL = 1e-9
#: float32 curves drift apart by rounding. They may be this many times as far apart as one
#: framework's curve moves when its initial weights move by one unit in the last place.
ROUNDINGS = 10.0
#: Name of the curve from weights one unit in the last place away.
NUDGED = "rounding"


def loss_curve(adapter: Adapter, method: str, loss: str, dtype: str, setup: Setup) -> Array:
    """The loss of every step of one training run, (steps,).

    Args:
        adapter: adapter of the framework, which differentiates, computes the loss and takes steps.
        method: name in `METHODS`.
        loss: name in `LOSSES`.
        dtype: dtype of weights and views.
        setup: initial weights, views and queue.
    """
    plan = METHODS[method]
    with adapter.precision(dtype):
        weights = {k: adapter.array(v, dtype) for k, v in setup.weights.items()}
        state: dict[str, Any] = {}
        if plan.queue:
            state["queue"] = adapter.array(setup.queue[: plan.queue], dtype)
        step = adapter.differentiate(
            partial(plan.step, Model(adapter, loss)), compiled=adapter.trains_compiled
        )
        optimizer = make_sgd(adapter, weights, RATE, MOMENTUM)
        losses = []
        for pair in setup.views:
            if plan.momentum is not None:
                state["momentum"] = _average(state.get("momentum", weights), weights, plan.momentum)
            views = [adapter.array(view, dtype) for view in pair]
            (value, *keys), gradients = step(weights, state, *views)
            weights = optimizer.step(weights, gradients)
            if plan.queue:  # the newest keys first
                state["queue"] = adapter.concat([*keys, state["queue"]])[: plan.queue]
            losses.append(float(adapter.numpy(value)))
    return np.array(losses)


def _average(old: dict[str, Any], new: dict[str, Any], momentum: float) -> dict[str, Any]:
    return {k: momentum * old[k] + (1.0 - momentum) * new[k] for k in old}


@dataclass(frozen=True)
class Comparison:
    """The loss curve of one framework beside that of the reference framework.

    Args:
        method: name of the method.
        loss: name of the loss.
        dtype: dtype of weights and views.
        framework: name of the framework that is compared.
        reference: name of the framework that it is compared with.
        difference: largest |a - b| / |b| of all steps, with the losses a of the framework and b of
            the reference; infinite where a loss is not finite.
        step: step with the largest difference, from 1.
        rounding: the same number for the reference beside itself, each of its initial weights one
            unit in the last place away: what rounding does to this training in one framework.
        problem: description of what kept a framework from training; empty if nothing.
    """

    method: str
    loss: str
    dtype: str
    framework: str
    reference: str
    difference: float = math.inf
    step: int = 0
    rounding: float = math.inf
    problem: str = ""

    @property
    def tolerance(self) -> float:
        """Largest difference that passes; at least a few roundings of the loss itself."""
        if self.dtype == "float64":
            return EQUAL
        return ROUNDINGS * max(self.rounding, float(np.finfo(self.dtype).eps))

    @property
    def passed(self) -> bool:
        """Whether the curves are as equal as the dtype allows."""
        finite = math.isfinite(self.difference) and math.isfinite(self.tolerance)
        return not self.problem and finite and self.difference <= self.tolerance


@dataclass(frozen=True)
class Group:
    """One training in every framework.

    Args:
        method: name of the method.
        loss: name of the loss.
        dtype: dtype of weights and views.
        curves: losses (steps,) by framework; under `NUDGED` those from nudged initial weights.
        comparisons: comparisons of every other framework with the reference.
    """

    method: str
    loss: str
    dtype: str
    curves: dict[str, Array]
    comparisons: list[Comparison]


def train_everywhere(
    adapters: Sequence[Adapter],
    methods: Iterable[str],
    steps: int,
    dtypes: Iterable[str] = DTYPES,
    announce: Callable[[str], None] = lambda what: None,
) -> Iterator[Group]:
    """Train each method with each loss in each dtype, one group after the other.

    Args:
        adapters: adapters of the frameworks; the first is the reference.
        methods: names in `METHODS`.
        steps: number of steps.
        dtypes: dtypes of weights and views.
        announce: function that is told what is trained next, and in which framework.

    Raises:
        ValueError: a method or dtype is unknown, there are fewer than two frameworks, or steps < 1.
    """
    chosen = [check_choice("method", method, METHODS) for method in methods]
    kinds = [check_choice("dtype", dtype, DTYPES) for dtype in dtypes]
    if len(adapters) < 2:
        names = [adapter.name for adapter in adapters]
        raise invalid("framework", "at least two that can be used, to compare", names)
    setup = make_setup(steps, max(method.queue for method in METHODS.values()))
    for method, loss, dtype in product(chosen, LOSSES, kinds):
        yield _group(adapters, method, loss, dtype, setup, announce)


def count_groups(methods: Sequence[str], dtypes: Sequence[str]) -> int:
    """The number of groups that `train_everywhere` makes."""
    return len(methods) * len(LOSSES) * len(dtypes)


def _group(
    adapters: Sequence[Adapter],
    method: str,
    loss: str,
    dtype: str,
    setup: Setup,
    announce: Callable[[str], None],
) -> Group:
    curves: dict[str, Array] = {}
    problems: dict[str, str] = {}
    runs = [(NUDGED, adapters[0], setup.nudged(dtype)), *((a.name, a, setup) for a in adapters)]
    for name, adapter, start in runs:
        announce(f"{method}, {loss}, {dtype}: {adapter.name}")
        try:
            curves[name] = loss_curve(adapter, method, loss, dtype, start)
        except Exception as error:
            problems[name] = describe(error)
    reference = adapters[0].name
    rounding, _ = _distance(curves, NUDGED, reference)
    comparisons = []
    for adapter in adapters[1:]:
        difference, step = _distance(curves, adapter.name, reference)
        problem = problems.get(adapter.name) or problems.get(reference, "")
        comparisons.append(
            Comparison(
                method, loss, dtype, adapter.name, reference, difference, step, rounding, problem
            )
        )
    return Group(method, loss, dtype, curves, comparisons)


def _distance(curves: Mapping[str, Array], name: str, reference: str) -> tuple[float, int]:
    """Largest relative difference of two curves, and the step, from 1, where it is."""
    if name not in curves or reference not in curves:
        return math.inf, 0
    relative = relative_difference(curves[name], curves[reference])
    return float(relative.max()), int(relative.argmax()) + 1


def relative_difference(a: Array, b: Array) -> Array:
    """|a - b| / |b| of every step; infinite where either is not finite."""
    with np.errstate(all="ignore"):
        relative = np.abs(a - b) / np.abs(b)
    return np.where(np.isfinite(relative), relative, np.inf)
