"""Peak memory of one loss with its gradient, in a process of its own.

Run as `python -m benchmarks.memory FRAMEWORK N D NEGATIVES IMPLEMENTATION [LOSS]`; prints the bytes
that the peak of the resident set rises beyond inputs and gradients. LOSS is "fmicl_loss" or
"info_nce_loss".
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.steps import STEPS


def status(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is the resident set, VmHWM its peak."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise RuntimeError(f"this system does not report {field}; memory is measured on Linux")
    return int(match.group(1)) * 1024


def measure(
    framework: str, n: int, d: int, negatives: str, implementation: str, loss: str = "fmicl_loss"
) -> int:
    """Bytes beyond inputs and gradients at the peak of the second run."""
    step = STEPS[framework](n, d, loss, negatives=negatives, implementation=implementation)
    return peak_of_second_run(step)[0] - 2 * n * d * 4


def peak_of_second_run(step: Callable[[], Any]) -> tuple[int, float]:
    """Bytes that the resident set rises in a run, gradients included; its seconds.

    A first run compiles.
    """
    step()
    time.sleep(1.0)  # frameworks free their buffers a little later, in threads of their own
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the first run freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = status("VmRSS")
    started = time.perf_counter()
    kept = step()
    elapsed = time.perf_counter() - started
    rise = status("VmHWM") - start
    del kept
    return rise, elapsed


def extra_mib(
    framework: str, n: int, d: int, negatives: str, implementation: str, loss: str = "fmicl_loss"
) -> float:
    """The same measured in a fresh process, in MiB."""
    options = framework, str(n), str(d), negatives, implementation, loss
    command = [sys.executable, "-m", "benchmarks.memory", *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return round(int(output) / 2**20, 1)


def probed_mib(module: str, framework: str, *probe: str, n: int, d: int) -> float:
    """What `python -m MODULE FRAMEWORK --probe ... --n N --d D` prints, in MiB; a fresh process."""
    command = [sys.executable, "-m", module, framework, "--probe", *probe, "--n", str(n)]
    command += ["--d", str(d)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return round(int(output.split()[-1]) / 2**20, 1)


if __name__ == "__main__":
    # The allocator of oneDNN keeps what was freed, so that a second run would seem to need nothing.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    name, rows, width, *others = sys.argv[1:]
    print(measure(name, int(rows), int(width), *others))
