"""`python -m benchmarks`: time and memory of the losses on this machine."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from benchmarks.machine import machine
from benchmarks.memory import extra_mib
from benchmarks.torch_cpu import Row, speed
from fmicl_core import DIVERGENCES, get_divergence

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print, and write benchmarks/results/*.csv."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--n", type=int, default=8192, help="batch size of the timing")
    parser.add_argument("--d", type=int, default=128, help="width of the features")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions, timed in turn")
    parser.add_argument("--divergences", nargs="+", help="names; default: all suitable ones")
    parser.add_argument("--no-dense", action="store_true", help="leave the slow dense form out")
    options = parser.parse_args()
    names = options.divergences or [n for n in DIVERGENCES if get_divergence(n).suitable]

    print(f"{torch.get_num_threads()} threads, float32, forward and backward, medians")
    rows = []
    for name in names:
        rows.append(speed(options.n, options.d, name, options.repeats, not options.no_dense))
        print("  ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    write("torch_cpu_speed.csv", rows)

    rows = []
    for n in (1024, 2048, 4096, 8192):
        for negatives, implementation in (
            ("anchor", "tiled"),
            ("cross", "tiled"),
            ("cross", "dense"),
        ):
            extra = extra_mib(n, options.d, negatives, implementation)
            rows.append({
                "n": n, "d": options.d, "negatives": negatives,
                "implementation": implementation, "extra_mib": extra,
            })  # fmt: skip
            print("  ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    write("torch_cpu_memory.csv", rows)


def write(name: str, rows: list[Row]) -> None:
    """Write rows and what they were measured on as CSV."""
    facts = machine(("torch", "numpy")) | {"threads": str(torch.get_num_threads())}
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *facts])
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)
    print(f"written to {RESULTS.name}/{name}")


if __name__ == "__main__":
    main()
