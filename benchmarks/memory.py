"""Peak memory of one loss with its gradient, in a process of its own.

Run as `python -m benchmarks.memory N D NEGATIVES IMPLEMENTATION`; prints the bytes that the peak of
the resident set rises beyond inputs and gradients.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.torch_cpu import features, step
from fmicl_torch import fmicl_loss


def status(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is the resident set, VmHWM its peak."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise RuntimeError(f"this system does not report {field}; memory is measured on Linux")
    return int(match.group(1)) * 1024


def measure(n: int, d: int, negatives: str, implementation: str) -> int:
    """Bytes beyond inputs and gradients at the peak."""
    small = features(600, d)
    for kind in ("dense", "tiled"):  # libraries and thread pools come up before the measurement
        step(*small, negatives=negatives, implementation=kind)
    x, y = features(n, d)
    x.grad, y.grad = torch.zeros_like(x), torch.zeros_like(y)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = status("VmRSS")
    fmicl_loss(x, y, negatives=negatives, implementation=implementation).backward()
    return status("VmHWM") - start


def extra_mib(n: int, d: int, negatives: str, implementation: str) -> float:
    """The same measured in a fresh process, in MiB."""
    command = [sys.executable, "-m", "benchmarks.memory", str(n), str(d), negatives, implementation]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return round(int(output) / 2**20, 1)


if __name__ == "__main__":
    print(measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
