"""A process that does the work of one library: cases come in as lines, rows go out as lines.

It is started by `benchmarks.gpu.crew`, which ends it when it takes too long.
"""

from __future__ import annotations

import importlib
import json
import queue
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu.cases import LIMIT, Check, Result, Speed, Tune
from benchmarks.gpu.pipe import connected, error_row
from benchmarks.gpu.truth import truth_of
from benchmarks.timing import Row


def check(library: Any, case: Check, device: str) -> Row:
    """Relative errors of one loss and its gradients, truth taken of the rounded features."""
    got: Result = library.result(case, device)
    truth = truth_of(case, got.features)
    errors = {"loss_error": [abs(got.loss - truth.loss) / truth.size]}
    pairs = zip(got.gradients, truth.gradients, strict=False)
    errors["gradient_error"] = [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]
    slopes = zip(got.slopes, truth.slopes, strict=False)
    errors["scalar_error"] = [abs(a - b) / abs(b) for a, b in slopes]
    row: Row = {name: float(np.max(some)) for name, some in errors.items() if some}
    worst = np.max([float(error) for error in row.values()])  # NaN if there is one
    return row | {"passed": int(worst <= LIMIT[case.dtype])}


def speed(library: Any, case: Speed, device: str, rates: dict[str, float]) -> Row:
    """Time of one loss, beside the rate of one large matrix product in the same dtype."""
    if case.dtype not in rates:
        rates[case.dtype] = library.matrix_rate(case.dtype, device)
    row: Row = library.speed(case, device)
    rate = rates[case.dtype]
    share = 1e-9 * case.flops / float(row["ms"]) / rate
    return row | {"rate_tflops": round(rate, 2), "fraction_of_rate": round(share, 4)}


def guarded(measure: Callable[[], Row]) -> Row:
    """The row of a measurement, or the reason why there is none."""
    try:
        return measure()
    except Exception as error:
        return error_row(error, 200)


def answer_all(library: Any, device: str, jobs: queue.Queue[str], answer: Any) -> None:
    """Do one job after the other, for as long as the device is in order."""
    rates: dict[str, float] = {}
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (Check, Speed, Tune)}
    does_it: dict[str, Callable[[Any], Row]] = {
        "check": lambda case: check(library, case, device),
        "speed": lambda case: speed(library, case, device, rates),
        "tune": lambda case: library.tune(case, device),
        "warm": lambda case: library.warm(case, device) or {},
    }
    while True:
        does, kind, values = json.loads(jobs.get())
        start = time.perf_counter()
        row = guarded(partial(does_it[does], kinds[kind](*values)))
        row["seconds"] = round(time.perf_counter() - start, 2)
        # An illegal access leaves a process nothing to go on with; a new one has.
        goes_on = "error" not in row or library.in_order()
        answer({"row": row, "goes_on": goes_on})
        if not goes_on:
            return


def main() -> None:
    """Import the module of the library, say so, and answer."""
    module, device = sys.argv[1:]
    jobs, answer = connected()
    library = importlib.import_module(module)
    answer({"device": library.prepare(device)})
    answer_all(library, device, jobs, answer)


if __name__ == "__main__":
    main()
