"""`python -m benchmarks.peers`: time and memory beside other libraries' losses on a CPU.

Runs in an environment of its own, `make bench-peers`. Every loss is taken forward and backward, in
float32, of the same two views. Peak memory is that of a process of its own, in MiB beyond inputs
and gradients; a loss that fails there, or takes too long, is left out of the timing. That takes all
others in turn in one process; what needs seconds has only been timed once, in the process of its
own. Rows whose `computes` is the same give the same number. With --labels both views stand in one
array, whose rows have labels (`benchmarks.labelled`); --towers are SigLIP and CLIP
(`benchmarks.towers`).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.__main__ import show, write
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.labelled import LABELLED
from benchmarks.memory import peak_of_second_run
from benchmarks.timing import Row, interleaved, median_ratio, medians
from benchmarks.towers import TOWERS

SIZES = (256, 512, 1024, 4096, 16384, 65536)
#: What one loss may take of this machine before it counts as failed.
LIMIT_GIB, LIMIT_SECONDS = 18, 240.0
#: Above this time of one step a loss is not timed again in turn with the others, and above the
#: next ones, ours and theirs, it has no further sizes.
ONCE_SECONDS, LAST_SECONDS = 3.0, {True: 3.0, False: 2.5}


class Group(NamedTuple):
    """Losses of the same inputs.

    Args:
        contestants: losses by their names.
        ours: the loss that times are ratios to.
        target: file of the results.
    """

    contestants: dict[str, Contestant]
    ours: str
    target: str


GROUPS = {
    "views": Group(CONTESTANTS, "fmicl KL", "peers_cpu.csv"),
    "labels": Group(LABELLED, "fmicl KL", "peers_labels_cpu.csv"),
    "towers": Group(TOWERS, "fmicl SigLIP", "peers_towers_cpu.csv"),
}


def probe(group: str, name: str, n: int, d: int) -> Row:
    """Memory and error of one loss, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers", "--probe", name, str(n), str(d)]
    command += ["--of", group]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failure": f"more than {LIMIT_SECONDS:.0f} s"}
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["killed"]
        memory = any(word in run.stderr for word in ("llocate", "memory", "bad_alloc"))
        return {"failure": f"more than {LIMIT_GIB} GiB" if memory else lines[-1][:80]}
    found: Row = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def probe_here(contestant: Contestant, n: int, d: int) -> Row:
    """What `probe` reports, in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB << 30, LIMIT_GIB << 30))
    step = contestant.step(n, d)
    rise, once = peak_of_second_run(step)
    row: Row = {"extra_mib": round((rise - 2 * n * d * 4) / 2**20, 1), "once_s": round(once, 4)}
    if contestant.saved is not None and n <= 16384:  # a forward pass more
        row["saved_mib"] = round(contestant.saved(n, d) / 2**20, 2)
    if n <= 1024:
        row["error"] = float(f"{contestant.error(n, d):.1e}")
    return row


def rows_of(group: str, n: int, d: int, names: list[str], repeats: int) -> list[Row]:
    """One row for every loss at one batch size."""
    contestants, ours, _ = GROUPS[group]
    probes = {name: probe(group, name, n, d) for name in names}
    fit = [name for name in names if "failure" not in probes[name]]
    quick = [name for name in fit if float(probes[name]["once_s"]) < ONCE_SECONDS]
    calls: dict[str, Callable[[], Any]] = {name: contestants[name].step(n, d) for name in quick}
    times = interleaved(calls, repeats, row=0.1)
    measured = medians(times)
    rows: list[Row] = []
    for name in names:
        row: Row = {"loss": name, "computes": contestants[name].computes, "n": n, "d": d}
        row["time_s"] = measured.get(f"{name}_s", probes[name].get("once_s", ""))
        row["times_ours"] = median_ratio(times, name, ours) if {name, ours} <= set(quick) else ""
        for column in ("extra_mib", "saved_mib", "error", "failure"):
            row[column] = probes[name].get(column, "")
        rows.append(show(row))
    return rows


def exponents(rows: list[Row]) -> None:
    """Print the slope of log time and log memory over log N between the two largest sizes."""
    for name in dict.fromkeys(str(row["loss"]) for row in rows):
        own = [row for row in rows if row["loss"] == name and row["time_s"] != ""][-2:]
        if len(own) == 2:
            step = math.log(float(own[1]["n"]) / float(own[0]["n"]))
            slopes = {
                column: round(math.log(float(own[1][column]) / float(own[0][column])) / step, 2)
                for column in ("time_s", "extra_mib")
                if min(float(r[column]) for r in own) > 0
            }
            print(f"{name}: N = {own[0]['n']} to {own[1]['n']}, growth exponents {slopes}")


def main() -> None:
    """Measure, print, write benchmarks/results/peers*_cpu.csv and draw docs/images/peers.png."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    of = parser.add_mutually_exclusive_group()
    of.add_argument("--of", choices=GROUPS, default="views", help=argparse.SUPPRESS)
    for name, what in (
        ("labels", "losses of one array with labels"),
        ("towers", "SigLIP and CLIP, scale and bias learned"),
    ):
        of.add_argument(f"--{name}", action="store_const", const=name, dest="of", help=what)
    every = [name for group in GROUPS.values() for name in group.contestants]
    parser.add_argument("--only", nargs="+", choices=every)
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    contestants, _, target = GROUPS[options.of]
    if options.probe:
        name, n, d = options.probe
        print(json.dumps(probe_here(contestants[name], int(n), int(d))))
        return
    names, rows = options.only or list(contestants), []
    for n in options.sizes:
        found = rows_of(options.of, n, options.d, names, options.repeats)
        rows += found
        once = {str(row["loss"]): float(row["time_s"]) for row in found if row["time_s"] != ""}
        names = [name for name in once if once[name] < LAST_SECONDS[name.startswith("fmicl")]]
    write(
        target,
        rows,
        ("torch", "jax", "optax", "lightly", "pytorch_metric_learning", "open_clip_torch"),
    )
    exponents(rows)
    if options.of == "views":
        from benchmarks.plot import draw

        draw()


if __name__ == "__main__":
    main()
