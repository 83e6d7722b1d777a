"""`python -m benchmarks.ids`: what ids cost, in time and in memory beyond inputs and gradients.

N rows in one array, tiled, float32, forward and backward, beside the same rows without ids (the
scheme "anchor" of two views): labels of ten classes, and views, where 2 and 8 rows have equal ids.
Times are taken in turn in one process, memory in a process of its own.

    python -m benchmarks.ids                    # all frameworks that are installed
    python -m benchmarks.ids torch --n 8192
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.__main__ import show, write
from benchmarks.memory import peak_of_second_run, probed_mib
from benchmarks.steps import STEPS_OF, Step
from benchmarks.timing import Row, interleaved, median_ratio, medians

#: The ids of N rows by what they are, in no order; None: the same rows without ids.
KINDS: dict[str, Callable[[int], np.ndarray] | None] = {
    "without ids": None,
    "labels of 10 classes": lambda n: np.random.default_rng(0).integers(0, 10, n),
    "2 equal ids": lambda n: np.random.default_rng(0).permutation(n) // 2,
    "8 equal ids": lambda n: np.random.default_rng(0).permutation(n) // 8,
}
LOSSES = {"fmicl_loss": "anchor", "info_nce_loss": "all"}


def step_of(framework: str, loss: str, kind: str, n: int, d: int) -> Step:
    """Loss and gradient of N rows with these ids."""
    function = getattr(import_module(f"fmicl_{framework}"), loss)
    of = partial(function, negatives=LOSSES[loss], implementation="tiled")
    make = KINDS[kind]
    if make is None:
        return STEPS_OF[framework](partial(of, negatives="anchor"), n, d)
    ids = make(n).astype(np.int32)
    return STEPS_OF[framework](lambda x, y: of(x, ids=as_ids(framework, ids)), n, d)


def as_ids(framework: str, ids: np.ndarray) -> Any:
    """As that framework's array; the others take NumPy's."""
    return import_module("torch").from_numpy(ids) if framework == "torch" else ids


def rows_of(framework: str, loss: str, n: int, d: int, repeats: int) -> list[Row]:
    """A row for every kind of ids."""
    calls = {kind: step_of(framework, loss, kind, n, d) for kind in KINDS}
    times = interleaved(calls, repeats, row=0.1)
    seconds, (plain, *_) = medians(times), KINDS
    return [
        show({
            "framework": framework, "loss": loss, "ids": kind, "n": n, "d": d,
            "time_s": seconds[f"{kind}_s"], "times_without": median_ratio(times, kind, plain),
            "extra_mib": probed_mib("benchmarks.ids", framework, loss, kind, n=n, d=d),
        })
        for kind in KINDS
    ]  # fmt: skip


def main() -> None:
    """Measure, print, and write benchmarks/results/ids_cpu.csv."""
    installed = [name for name in STEPS_OF if importlib.util.find_spec(name)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ids", description=__doc__)
    parser.add_argument("frameworks", nargs="*", help=f"default: {' '.join(installed)}")
    parser.add_argument("--n", type=int, default=16384)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["fmicl_loss"])
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its allocator keeps what was freed
        step = step_of(options.frameworks[0], *options.probe, options.n, options.d)
        arrays = 2 if options.probe[1] == "without ids" else 1
        print(peak_of_second_run(step)[0] - arrays * options.n * options.d * 4)
        return
    rows = [
        row
        for framework in options.frameworks or installed
        for loss in options.losses
        for row in rows_of(framework, loss, options.n, options.d, options.repeats)
    ]
    write("ids_cpu.csv", rows, ("torch", "jax", "tensorflow"))


if __name__ == "__main__":
    main()
