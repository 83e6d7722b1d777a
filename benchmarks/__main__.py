"""`python -m benchmarks`: time and memory of the losses on this machine.

Each framework has its own results, so that one can be measured again without the others:

    python -m benchmarks                        # all that are installed
    python -m benchmarks jax tensorflow
    python -m benchmarks data --help            # of reading images, beside training on them
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import sys
from pathlib import Path

from benchmarks import info_nce
from benchmarks.machine import machine
from benchmarks.memory import extra_mib
from benchmarks.steps import STEPS
from benchmarks.timing import Row
from fmicl_core import DIVERGENCES, get_divergence

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print, and write benchmarks/results/*.csv."""
    if sys.argv[1:2] == ["data"]:
        from benchmarks import data

        data.main(sys.argv[2:])
        return
    installed = [name for name in STEPS if importlib.util.find_spec(name)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("frameworks", nargs="*", help=f"default: {' '.join(installed)}")
    parser.add_argument("--n", type=int, help="batch size of the timing; default 8192, 4096")
    parser.add_argument("--d", type=int, default=128, help="width of the features")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions, timed in turn")
    parser.add_argument("--divergences", nargs="+", help="names; default: all suitable ones")
    parser.add_argument("--no-dense", action="store_true", help="PyTorch: leave the slow form out")
    options = parser.parse_args()
    if unknown := set(options.frameworks) - set(STEPS):
        parser.error(f"no framework {sorted(unknown)}; there are {' '.join(STEPS)}")
    options.divergences = options.divergences or [
        name for name in DIVERGENCES if get_divergence(name).suitable
    ]
    for framework in options.frameworks or installed:
        print(f"{framework}: float32, forward and backward, medians")
        write(f"{framework}_cpu_speed.csv", speeds(framework, options), (framework,))
        write(f"{framework}_cpu_memory.csv", memories(framework, options.d), (framework,))
        rows = [
            show(info_nce.compare(framework, 4096, options.d, negatives, options.repeats))
            for negatives in ("cross", "all")
        ]
        write(f"{framework}_cpu_info_nce.csv", rows, (framework,))


def speeds(framework: str, options: argparse.Namespace) -> list[Row]:
    """A row for each divergence; the compiled frameworks have one for each kind of block."""
    if framework == "torch":
        from benchmarks import torch_cpu

        dense = not options.no_dense
        return [
            show(torch_cpu.speed(options.n or 8192, options.d, name, options.repeats, dense))
            for name in options.divergences
        ]
    from benchmarks import compiled_cpu

    size = options.n or 4096, options.d
    return [
        show(compiled_cpu.speed(framework, *size, name, negatives, options.repeats))
        for name in options.divergences
        for negatives in ("cross", "anchor")
    ]


def memories(framework: str, d: int) -> list[Row]:
    """Extra memory of both forms at growing batch sizes."""
    return [
        show({
            "n": n, "d": d, "negatives": negatives, "implementation": implementation,
            "extra_mib": extra_mib(framework, n, d, negatives, implementation),
        })
        for n in (1024, 2048, 4096, 8192)
        for negatives, implementation in (
            ("anchor", "tiled"), ("cross", "tiled"), ("cross", "dense"),
        )
    ]  # fmt: skip


def show(row: Row) -> Row:
    """Print a row as soon as it is known."""
    print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    return row


def write(name: str, rows: list[Row], packages: tuple[str, ...] = ("torch",)) -> None:
    """Write rows and what they were measured on, with the versions of packages, as CSV."""
    facts = machine((*packages, "numpy")) | {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *facts])
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)
    print(f"written to {RESULTS.name}/{name}")


if __name__ == "__main__":
    main()
