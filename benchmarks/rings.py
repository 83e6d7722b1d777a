"""`python -m benchmarks.rings [FRAMEWORK ...]`: memory of a rank as more ranks share one batch.

Runs `benchmarks.rings_torch`, `rings_jax` and `rings_tensorflow`, each in a process of its own, and
writes benchmarks/results/rings_cpu.csv. Rows of a framework, or of a loss, that is not run again
stay in the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.__main__ import RESULTS, show, write
from benchmarks.timing import Row

FRAMEWORKS = ("torch", "jax", "tensorflow")
WORLDS = (1, 2, 4)
#: A function of each backend and its options, by the names of the command line.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("fmicl_loss", {"negatives": "all"}),
    "js": ("fmicl_loss", {"divergence": "js", "negatives": "all"}),
    "info-nce": ("info_nce_loss", {"negatives": "all"}),
    "clip": ("clip_loss", {}),
    "siglip": ("siglip_loss", {}),
}
TARGET = "rings_cpu.csv"
FIELDS = ("framework", "world", "n", "d", "loss", "form", "mib_per_rank", "ms")


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rings", description=__doc__)
    parser.add_argument("frameworks", nargs="*", help=f"default: {' '.join(FRAMEWORKS)}")
    parser.add_argument("--n", type=int, default=16384, help="rows of all ranks together")
    parser.add_argument("--d", type=int, default=128, help="width of the features")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--form", choices=("tiled", "dense"), default="tiled")
    options = parser.parse_args()
    if unknown := set(options.frameworks) - set(FRAMEWORKS):
        parser.error(f"no framework {sorted(unknown)}; there are {' '.join(FRAMEWORKS)}")
    chosen = options.frameworks or FRAMEWORKS
    kept = [
        row for row in written()
        if row["framework"] not in chosen or row["loss"] not in options.losses
    ]  # fmt: skip
    rows = [
        show(measured(framework, world, options.n, options.d, loss, options.form))
        for framework in chosen
        for loss in options.losses
        for world in WORLDS
    ]
    write(TARGET, [*kept, *rows], FRAMEWORKS)


def measured(framework: str, world: int, n: int, d: int, loss: str, form: str) -> Row:
    """The row of one loss over so many ranks."""
    command = [sys.executable, "-m", f"benchmarks.rings_{framework}", str(world), str(n), str(d)]
    # As in `benchmarks.memory`: an allocator that keeps what was freed would hide the second run's.
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, loss, form], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return {"framework": framework, **json.loads(done.stdout.strip().splitlines()[-1])}


def written() -> list[Row]:
    """The rows of the file as it is, without what they were measured on."""
    if not (RESULTS / TARGET).exists():
        return []
    with open(RESULTS / TARGET, newline="", encoding="utf-8") as file:
        return [{name: row[name] for name in FIELDS} for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
